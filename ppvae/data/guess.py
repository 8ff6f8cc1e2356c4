"""Guess what a column of a DataFrame is, from its dtype and its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas

MOST_CLASSES = 50  # words that differ: more of them are names or text
TIMES = 4  # that each class is there on average, at least
FEW = 10  # whole numbers that differ: as many are taken as steps of a scale
LARGEST = 1000  # counts beyond are taken as amounts


class Guess(NamedTuple):
    """What a column is: a kind without its number of classes, or "aside"."""

    kind: str
    values: tuple[Any, ...]
    whole: bool
    ordered: bool = True


def guess(column: pandas.Series) -> Guess:
    """What a column is.

    bool is binary; a Categorical is ordinal if ordered, else categorical; words are categorical if there are at most 50
    different ones, each four times on average, else aside, like dates. Whole numbers, whatever their dtype (pandas makes
    integers with holes floats), are binary if there are two of them, ordinal up to ten, counts if they begin at 0 or 1,
    vary as much as a Poisson law does and stay below 1,000, else real. Other numbers are positive if they are, and a LogNormal
    fits better than a Normal. What never varies among words is aside.
    """
    from pandas.api import types

    values = column.dropna()
    if isinstance(column.dtype, types.CategoricalDtype):
        return _words(values_of(column), len(values), column.dtype.ordered, len(column.dtype.categories))
    if types.is_bool_dtype(column.dtype) or (column.dtype == object and len(values) and _all(values, (bool, np.bool_))):
        return Guess("binary", (False, True), False)
    if types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype):
        return _number(values.to_numpy(np.float64))
    if column.dtype == object and len(values) and _all(values, (int, float, np.number)):
        return _number(values.astype(float).to_numpy())
    if (column.dtype == object and _all(values, str)) or types.is_string_dtype(column.dtype):
        return _words(values_of(column), len(values), False, MOST_CLASSES)
    return Guess("aside", (), False, False)


def values_of(column: pandas.Series) -> tuple[Any, ...]:
    """The different values of a column, in order: a Categorical's own (those that are there, if it has no order), else sorted."""
    from pandas.api import types

    if isinstance(column.dtype, types.CategoricalDtype):
        there = set(column.dropna().unique())
        own = column.dtype.categories
        return tuple(own if column.dtype.ordered else [value for value in own if value in there])
    found = column.dropna().unique().tolist()
    return tuple(
        sorted(found, key=lambda value: (type(value).__name__, value) if isinstance(value, str) else ("", value))
    )


def _all(values: pandas.Series, kinds: type | tuple[type, ...]) -> bool:
    return all(isinstance(value, kinds) for value in values)


def _words(values: tuple[Any, ...], seen: int, ordered: bool, most: int) -> Guess:
    if not 2 <= len(values) <= most or seen < TIMES * len(values):
        return Guess("aside", values, False, ordered)
    if len(values) == 2:
        return Guess("binary", values, False, ordered)
    return Guess("ordinal" if ordered else "categorical", values, False, ordered)


def _number(x: np.ndarray) -> Guess:
    x = x[np.isfinite(x)]
    whole = bool(len(x)) and bool((x % 1 == 0).all()) and np.abs(x).max() < 2**53
    different = np.unique(x)
    if whole and 2 <= len(different) <= FEW and len(x) >= TIMES * len(different):
        return Guess("binary" if len(different) == 2 else "ordinal", tuple(map(int, different)), True)
    if whole:
        counts = 0 <= x.min() <= 1 and x.max() < LARGEST and len(different) > 1 and x.var() >= x.mean()
        return Guess("count" if counts else "real", (), True)
    if len(different) > 1 and x.min() > 0 and np.log(x).mean() + np.log(np.log(x).std()) < np.log(x.std()):
        return Guess("positive", (), False)  # the larger of the two greatest likelihoods
    return Guess("real", (), False)
