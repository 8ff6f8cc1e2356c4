"""Turn the columns of a table into numbers, and say exactly which cells are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from ppvae.errors import Problem

if TYPE_CHECKING:
    import pandas

# As pandas reads them, in any case, and the question mark of the UCI tables.
MISSING = {
    "", "?", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "nat",
    "#n/a", "#n/a n/a", "#na", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
}  # fmt: skip

Text = Literal["refuse", "keep", "words"]


def numeric(
    frame: pandas.DataFrame, where: Callable[[int], str], text: Text = "refuse"
) -> tuple[pandas.DataFrame, list[int]]:
    """Convert the columns of numbers, missing cells to NaN, and say which they are.

    A column is text if fewer than half of its cells that are not missing are numbers. In any other column a
    cell that is no number is an error: guessing what "12,5" or "1.2 kg" means would change data in silence.

    Args:
        frame: (N, C) cells of any type.
        where: says where row n came from, for the messages.
        text: "refuse" columns of text, "keep" them as they stand beside one of numbers at least, or "words": keep them.

    Returns:
        The table (N, C), and the positions of its columns of numbers.

    Raises:
        Problem: no numeric column; a cell that is neither a number nor a missing marker; an infinity.
    """
    import pandas

    columns = [_numbers(frame.iloc[:, j]) for j in range(frame.shape[1])]
    if text != "words" and all(values.isna().all() and bad.any() for values, bad in columns):
        names = ", ".join(map(str, frame.columns[:10])) or "none"
        raise Problem(
            f"the table has no numeric column; its columns are {names}",
            "text, or a missing header line",
            "a table of numbers with one header line; turn categories into numbers first",
        )
    kept, numbers = {}, []
    for j, (values, bad) in enumerate(columns):
        column = frame.iloc[:, j]
        if text != "refuse" and bad.sum() > values.notna().sum():
            kept[j] = column
            continue
        infinite = np.isinf(values.to_numpy(np.float64, na_value=np.nan))
        remedy = "correct them, leave them empty, or drop it"
        if text != "refuse":
            remedy = (
                "correct them or leave them empty; only where fewer than half are numbers is a column taken as text"
            )
        _refuse(column, bad, where, "is not numeric", remedy)
        _refuse(column, infinite, where, "is infinite", "finite numbers; empty cells are missing")
        kept[j] = values
        numbers.append(j)
    return pandas.DataFrame(kept, index=frame.index).set_axis(frame.columns, axis=1), numbers


def holes(column: pandas.Series) -> np.ndarray:
    """Which cells of a column are missing, (N,)."""
    return _stripped(column).str.lower().isin(MISSING).to_numpy()


def _stripped(column: pandas.Series) -> pandas.Series:
    return column.astype(object).where(column.notna(), "").astype(str).str.strip()


def _numbers(column: pandas.Series) -> tuple[pandas.Series, np.ndarray]:
    """Give a column as numbers, NaN where there is none; and which cells are neither number nor hole."""
    import pandas
    from pandas.api import types

    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):  # bool too
        return column, np.zeros(len(column), bool)
    values = pandas.to_numeric(_stripped(column), errors="coerce")
    return values, values.isna().to_numpy() & ~holes(column)


def _refuse(column: pandas.Series, bad: np.ndarray, where: Callable[[int], str], what: str, remedy: str) -> None:
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    first = ", ".join(f"{column.iloc[n]!r} ({where(n)})" for n in rows[:3])
    count = f"{len(rows)} cells, the first three: " if len(rows) > 3 else ""
    raise Problem(f"column {column.name!r} {what}: {count}{first}", "a typing error, a unit, text or a code", remedy)
