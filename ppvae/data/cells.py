"""Turn the columns of a table into numbers, and say exactly which cells are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ppvae.errors import Problem

if TYPE_CHECKING:
    import pandas

# As pandas reads them, in any case, and the question mark of the UCI tables.
MISSING = {
    "", "?", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "nat",
    "#n/a", "#n/a n/a", "#na", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
}  # fmt: skip


def numeric(frame: pandas.DataFrame, where: Callable[[int], str]) -> pandas.DataFrame:
    """Convert every column to numbers, missing cells to NaN.

    Args:
        frame: (N, D) cells of any type.
        where: says where row n came from, for the messages.

    Raises:
        Problem: no numeric column; a cell that is neither a number nor a missing marker; an infinity.
    """
    import pandas

    columns = [_numbers(frame.iloc[:, j]) for j in range(frame.shape[1])]
    if all(values.isna().all() and bad.any() for values, bad in columns):
        names = ", ".join(map(str, frame.columns[:10])) or "none"
        raise Problem(
            f"the table has no numeric column; its columns are {names}",
            "text, or a missing header line",
            "a table of numbers with one header line; turn categories into numbers first",
        )
    for j, (values, bad) in enumerate(columns):
        infinite = np.isinf(values.to_numpy(np.float64, na_value=np.nan))
        _refuse(frame.iloc[:, j], bad, where, "is not numeric", "correct them, leave them empty, or drop it")
        _refuse(frame.iloc[:, j], infinite, where, "is infinite", "finite numbers; empty cells are missing")
    return pandas.DataFrame(dict(enumerate(values for values, _ in columns)), index=frame.index).set_axis(
        frame.columns, axis=1
    )


def _numbers(column: pandas.Series) -> tuple[pandas.Series, np.ndarray]:
    """Give a column as numbers, NaN where there is none; and which cells are neither number nor hole."""
    import pandas
    from pandas.api import types

    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):  # bool too
        return column, np.zeros(len(column), bool)
    text = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    values = pandas.to_numeric(text, errors="coerce")
    return values, (values.isna() & ~text.str.lower().isin(MISSING)).to_numpy()


def _refuse(column: pandas.Series, bad: np.ndarray, where: Callable[[int], str], what: str, remedy: str) -> None:
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    first = ", ".join(f"{column.iloc[n]!r} ({where(n)})" for n in rows[:3])
    count = f"{len(rows)} cells, the first three: " if len(rows) > 3 else ""
    raise Problem(f"column {column.name!r} {what}: {count}{first}", "a typing error, a unit, text or a code", remedy)
