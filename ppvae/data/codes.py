"""One column of a DataFrame as numbers and codes, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvae.errors import Problem
from ppvae.nn.kinds import classes

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Column:
    """One column that is modelled.

    Attributes:
        name: as in the DataFrame.
        kind: as a pair takes it: "real", "positive", "count", "ordinal:C", "categorical:C" or "binary".
        values: what the codes 0, 1, … stand for; of numbers, empty.
        whole: whether its numbers are whole, and so completed by whole ones.
        dtype: of pandas, which decoded values have again where it can hold them.
    """

    name: Any
    kind: str
    values: tuple[Any, ...]
    whole: bool
    dtype: Any


def encoded(columns: Sequence[Column], frame: pandas.DataFrame, where: Callable[[int], str]) -> np.ndarray:
    """The columns of a table as numbers and codes, (N, D), NaN = missing; ``where`` says where row n came from."""
    return np.stack([_encoded(column, frame[column.name], where) for column in columns], 1)


def _encoded(column: Column, values: pandas.Series, where: Callable[[int], str]) -> np.ndarray:
    hole = values.isna().to_numpy()
    if column.values:
        code = {value: float(n) for n, value in enumerate(column.values)}
        found = values.astype(object).map(code).astype(float).to_numpy().copy()
        shown = ", ".join(map(repr, column.values[:8])) + ", …" * (len(column.values) > 8)
        what = f"is none of the {len(column.values)} classes of its column"
        cause = "a typing error, or a class that the schema was not learned from"
        remedy = f"one of: {shown}; learn the schema from a table that has it, or leave the cell empty"
        _refuse(values, np.isnan(found) & ~hole, where, what, cause, remedy)
        return found
    return _numbers(column, values, hole, where)


def _numbers(column: Column, values: pandas.Series, hole: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    import pandas

    if pandas.api.types.is_numeric_dtype(values.dtype):
        found = values.to_numpy(np.float64, na_value=np.nan)
    else:
        found = pandas.to_numeric(values.astype(object).where(~hole, np.nan), errors="coerce").to_numpy(np.float64)
    finite, real = "numbers; empty cells are missing", 'the kind "real" for this column; empty where missing'
    _refuse(values, np.isnan(found) & ~hole, where, "is no number", "a word, a unit or a code", finite)
    _refuse(values, np.isinf(found), where, "is infinite", "a division by zero", finite)
    if column.kind == "positive":
        _refuse(values, found <= 0, where, "is not positive", "a loss, an exact zero, or a code for missing", real)
    if column.kind == "count":
        bad = ((found < 0) | (found % 1 != 0)) & ~hole
        _refuse(values, bad, where, "is no count", "an average, a difference, or a code for missing", real)
    return found


def decoded(column: Column, x: np.ndarray) -> np.ndarray:
    """The values of one column, (N,), None where a class is missing, NaN where a number is."""
    if not column.values:
        return np.round(x) if column.whole else x
    codes = np.where(np.isnan(x), np.nan, x >= 0.5) if column.kind == "binary" else x
    bad = ~np.isnan(x) & ~np.isin(codes, range(classes(column.kind)))
    if bad.any():
        n = int(np.flatnonzero(bad)[0])
        raise Problem(
            f"{x[n]:.4g} in row {n} is no code of the {len(column.values)} classes of column {column.name!r}",
            "codes that were averaged, or the numbers of another column",
            "impute_mean(), which takes the likeliest class, or one draw of impute()",
        )
    found = np.empty(len(x), object)
    found[:] = [None if np.isnan(code) else column.values[int(code)] for code in codes]
    return found


def filled(values: pandas.Series, found: pandas.Series) -> pandas.Series:
    """A column with its holes filled, of its own dtype where that holds what they are filled with."""
    hole = values.isna()
    if not hole.any():
        return values
    return values.astype(object).where(~hole, found.astype(object)).astype(holding(values.dtype, found))


def holding(dtype: Any, values: pandas.Series) -> Any:
    """The dtype, or one that holds missing values too where there are any."""
    if values.isna().any() and isinstance(dtype, np.dtype) and dtype.kind in "iub":
        return "boolean" if dtype.kind == "b" else "Int64"
    return dtype


def _refuse(
    column: pandas.Series, bad: np.ndarray, where: Callable[[int], str], what: str, cause: str, remedy: str
) -> None:
    """Refuse the cells of a column that are bad, with their values and places."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    values = [column.iloc[n] for n in rows[:3]]
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    first = ", ".join(f"{value!r} ({where(n)})" for value, n in zip(plain, rows.tolist(), strict=False))
    count = f"{len(rows)} cells, the first three: " if len(rows) > 3 else ""
    raise Problem(f"column {column.name!r} holds what {what}: {count}{first}", cause, remedy)
