"""What the columns of a DataFrame are: words and truth values to codes that a mixed story takes, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppvae.data.codes import Column, decoded, encoded, filled, holding
from ppvae.data.guess import Guess, guess, values_of
from ppvae.errors import Problem
from ppvae.nn.kinds import SUPPORTS, scales

if TYPE_CHECKING:
    import pandas

Kind = str | Sequence[Any]
WORDS = (*SUPPORTS, "ordinal", "categorical", "binary", "aside")


class NothingToModel(Problem):
    """A table without a column that can be modelled."""


@dataclass(frozen=True)
class Schema:
    """The columns of a table by kind, learned from a DataFrame; see `Schema.of`.

    Attributes:
        columns: those that are modelled, in the table's order.
        aside: the names of those that are not: dates, text with many different values, a word that never varies.
        scales: location and unit of each modelled column.
    """

    columns: tuple[Column, ...]
    aside: tuple[Any, ...]
    scales: tuple[tuple[float, float], ...]

    @classmethod
    def of(
        cls,
        frame: pandas.DataFrame,
        kinds: Mapping[Any, Kind] | None = None,
        where: Callable[[int], str] | None = None,
    ) -> Schema:
        """Learn what the columns are, by their dtypes and values (`ppvae.data.guess.guess`), or as ``kinds`` says.

        Args:
            frame: (N, C), missing cells NaN, None, NA or NaT.
            kinds: of some columns by name: "real", "positive", "count", "ordinal", "categorical", "binary", or "aside" for
                one that is not modelled; or the classes of an ordinal column in their order, ``["low", "high"]``.
            where: says where row n came from, for the messages; by default its label.

        Raises:
            Problem: a column that is not there, a kind that its values do not have (with column, row and value), words
                without an order as ordinal, no column to model.
        """
        if not hasattr(frame, "columns") or not frame.columns.is_unique:
            raise Problem(
                f"a {type(frame).__name__} is no table of named columns, or two of its columns have one name",
                "an array, or columns joined from several tables",
                "pandas.DataFrame(x, columns=…)",
            )
        kinds = dict(kinds or {})
        unknown = [name for name in kinds if name not in frame.columns]
        if unknown:
            raise Problem(
                f"kinds names the column {unknown[0]!r}",
                "a misspelt name",
                f"one of: {', '.join(map(str, frame.columns[:20]))}",
            )
        found = {name: _column(frame[name], kinds.get(name)) for name in frame.columns}
        columns = tuple(column for column in found.values() if column is not None)
        if not columns:
            raise NothingToModel(
                f"none of the columns {', '.join(map(str, frame.columns[:10]))} can be modelled",
                "dates, text with many different values, or columns that never vary",
                'kinds={"name": "categorical"} models one all the same',
            )
        aside = tuple(name for name, column in found.items() if column is None)
        codes = encoded(columns, frame, where or (lambda n: f"row {frame.index[n]!r}"))
        return cls(columns, aside, scales(codes, [column.kind for column in columns]))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the modelled columns, as ``ppvae.make("mixed_vae", …)`` takes them."""
        return tuple(column.kind for column in self.columns)

    @property
    def options(self) -> dict[str, Any]:
        """What a pair is made by: ``ppvae.make("mixed_vae", latents=5, **schema.options)``."""
        return {"features": len(self.columns), "kinds": self.kinds, "scales": self.scales}

    def encode(self, frame: pandas.DataFrame, where: Callable[[int], str] | None = None) -> np.ndarray:
        """A table of these columns as numbers, (N, D) float64, NaN = missing: classes as codes, truth values as 0 and 1.

        Args:
            frame: with these columns, in any order and among others.
            where: says where row n came from, for the messages; by default its label.

        Raises:
            Problem: a column that is missing; with column, row and value, a class that was not there when the schema was
                learned, a word among numbers, a non-positive value of a positive column, a fraction or a negative count.
        """
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            raise Problem(
                f"the table has no column {absent[0]!r}", "another table", "a table with the columns of the schema"
            )
        return encoded(self.columns, frame, where or (lambda n: f"row {frame.index[n]!r}"))

    def decode(self, x: Any, like: pandas.DataFrame | None = None) -> pandas.DataFrame:
        """The table that numbers (N, D) stand for, classes as words, with the dtypes that the schema was learned from.

        Whole numbers and counts are rounded; of a bit's probability the likelier value is taken. NaN is missing.

        Args:
            x: as of `encode`, `Posterior.impute_mean`, or one draw of `Posterior.impute`.
            like: the table that was encoded: its index, its other columns and every cell that is not missing are kept.

        Raises:
            Problem: another number of columns or rows; a number that is no code of a class, such as an average of codes.
        """
        import pandas

        x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.columns) or (like is not None and len(like) != len(x)):
            raise Problem(
                f"x has shape {x.shape} for {len(self.columns)} columns"
                + (f" and {len(like)} rows" if like is not None else ""),
                "several draws at once, or rows of another table",
                "[schema.decode(x, frame) for x in post.impute(draws=5)]",
            )
        index = None if like is None else like.index
        found = {c.name: pandas.Series(decoded(c, x[:, j]), index=index) for j, c in enumerate(self.columns)}
        if like is None:
            return pandas.DataFrame(
                {c.name: found[c.name].astype(holding(c.dtype, found[c.name])) for c in self.columns}
            )
        return pandas.DataFrame(
            {name: filled(like[name], found[name]) if name in found else like[name] for name in like.columns},
            index=index,
        )


def _column(values: pandas.Series, asked: Kind | None) -> Column | None:
    """What a column is, None if it is kept aside."""
    found = guess(values)
    if asked is not None:
        found = _asked(values, asked, found)
    if found.kind == "aside":
        return None
    kind = found.kind
    if kind in ("ordinal", "categorical"):
        kind = f"{kind}:{len(found.values)}"
    return Column(values.name, kind, found.values, found.whole, values.dtype)


def _asked(values: pandas.Series, asked: Kind, found: Guess) -> Guess:
    if not isinstance(asked, str):
        return _classes(values, Guess("ordinal", tuple(asked), False))
    if asked not in WORDS:
        raise Problem(
            f"column {values.name!r} is asked to be {asked!r}", "a misspelt kind", f"one of: {', '.join(WORDS)}"
        )
    if asked in ("ordinal", "categorical", "binary"):
        if asked == "ordinal" and not found.ordered:
            raise Problem(
                f"column {values.name!r} holds words, such as {found.values[0]!r}, and is asked to be ordinal",
                "words have no order of their own",
                f"kinds={{{values.name!r}: ['first', 'second', …]}}, or an ordered pandas.Categorical",
            )
        return _classes(values, Guess(asked, values_of(values), False, found.ordered))
    return Guess(asked, (), asked == "count" or (asked != "aside" and found.whole))


def _classes(values: pandas.Series, found: Guess) -> Guess:
    if len(set(found.values)) < 2 or (found.kind == "binary" and len(found.values) != 2):
        raise Problem(
            f"column {values.name!r} has {len(found.values)} different values and is asked to be {found.kind}",
            "classes are told apart by at least two values, a bit by two",
            'kinds={…: "categorical"} for more, "aside" for fewer',
        )
    return found
