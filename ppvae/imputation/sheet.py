"""A table from a file as numbers and codes, and what was found for its holes as cells of that file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ppvae.data.cells import MISSING
from ppvae.data.codes import Column
from ppvae.data.lines import Lines
from ppvae.data.schema import Kind, NothingToModel, Schema
from ppvae.data.table import Table
from ppvae.errors import Problem
from ppvae.imputation.mixed import Layout

if TYPE_CHECKING:
    import pandas

FEWEST = 100  # rows; fewer say too little of words, and a fraction says more than a whole number
HOLES = MISSING - {"none"}  # of words: "none" may well be an answer


@dataclass(frozen=True, eq=False)
class Sheet:
    """A table whose columns are known.

    Attributes:
        table: its ``values`` hold numbers and codes of the columns that are modelled, (N, D).
        columns: those columns; without any of classes or of whole numbers, the table is as it was read.
        layout: what they are.
    """

    table: Table
    columns: tuple[Column, ...]
    layout: Layout

    @classmethod
    def of(cls, table: Table, kinds: Mapping[str, Kind] | None = None, guess: bool = True) -> Sheet:
        """Find out what the columns of a table are, by `Schema.of`.

        Words are classes, and whole numbers whole, where the table has 100 rows at least. Of a CSV the empty cells and markers
        such as NA and ? are missing among words too.

        Args:
            table: as of ``read_table(…, text="words")``; its columns of numbers hold numbers.
            kinds: of some columns, whatever the number of rows.
            guess: False: columns of numbers are real, all others are kept aside.
        """
        kinds = dict(kinds or {})
        frame = _cells(table)
        _refuse_names(kinds, frame)
        if not guess or len(frame) < FEWEST:
            kinds = {name: "real" if name in table.columns else "aside" for name in frame.columns} | kinds
        said = {name for name, kind in kinds.items() if kind != "real"} if len(frame) < FEWEST or not guess else None
        try:
            schema = Schema.of(frame, kinds, table.where)
        except NothingToModel:
            if table.columns:  # all of them were said to be kept aside
                raise
            return cls(table, (), Layout((), ()))
        columns = schema.columns
        whole = tuple(column.whole and (said is None or column.name in said) for column in columns)
        layout = Layout(schema.kinds, whole)
        if len(columns) == len(table.columns) and not any(whole) and len(layout.numbers) == len(columns):
            return cls(table, columns, layout)
        values = np.ascontiguousarray(schema.encode(frame, table.where))
        names = [column.name for column in columns]
        positions = [list(frame.columns).index(name) for name in names]
        kept = _whole_frame(table, [n for n, w in zip(names, whole, strict=True) if w])
        return cls(replace(table, values=values, columns=names, positions=positions, frame=kept), columns, layout)

    @property
    def mixed(self) -> bool:
        """Whether there are classes."""
        return len(self.layout.numbers) < len(self.columns)

    @property
    def classes(self) -> list[tuple[object, ...]]:
        """Of each column, what its codes stand for; nothing of numbers."""
        return [column.values for column in self.columns]

    def cells(self, values: np.ndarray, lines: bool) -> np.ndarray:
        """What to write for the M missing cells, from numbers and codes (…, M), row by row: numbers, or objects (…, M).

        Args:
            values: (…, M).
            lines: of a CSV to a CSV: a class is a cell of that class as it is written there, and a whole number is written as
                the column's are. Else Python's values.
        """
        if not self.mixed and not any(self.layout.whole):
            return values
        column = np.argwhere(np.isnan(self.table.values))[:, 1]
        found = values.astype(object)  # Python floats
        for j, known in enumerate(self.columns):
            here = column == j
            if here.any() and known.values:
                words = np.empty(len(known.values), object)
                words[:] = [self._word(j, code, lines) for code in range(len(words))]
                found[..., here] = words[values[..., here].astype(int)]
            elif here.any() and self.layout.whole[j]:
                found[..., here] = self._whole(j, values[..., here], lines)
        return found

    def _word(self, j: int, code: int, lines: bool) -> object:
        """A class as a cell, of a CSV as the first cell of that class is written."""
        known, rows = self.columns[j], np.flatnonzero(self.table.values[:, j] == code)
        if not isinstance(self.table.sheet, Lines) or not len(rows):
            return str(known.values[code]) if lines else known.values[code]
        if lines:
            return self.table.sheet.rows[rows[0]][self.table.positions[j]]
        return self.table.frame[known.name].iloc[rows[0]] if isinstance(known.values[code], str) else known.values[code]

    def _whole(self, j: int, values: np.ndarray, lines: bool) -> np.ndarray:
        out = np.empty(values.shape, object)
        numbers = np.round(values).ravel().tolist()
        if lines:
            assert isinstance(self.table.sheet, Lines)
            rows, position = self.table.sheet.rows, self.table.positions[j]
            seen = np.flatnonzero(~np.isnan(self.table.values[:, j]))
            pointed = any("." in rows[n][position] for n in seen)
            out.ravel()[:] = [repr(v) if pointed else str(int(v)) for v in numbers]
        else:
            out.ravel()[:] = [int(v) for v in numbers]
        return out


def _cells(table: Table) -> pandas.DataFrame:
    """The table with numbers as floats, and holes among words as holes."""
    import pandas

    frame = {}
    for j, name in enumerate(table.frame.columns):
        if j in table.positions:
            frame[name] = table.values[:, table.positions.index(j)]
        elif isinstance(table.sheet, Lines):
            words = table.frame[name].astype(object).where(table.frame[name].notna(), "").astype(str).str.strip()
            frame[name] = words.astype(object).where(~words.str.lower().isin(HOLES), None)
        else:
            frame[name] = table.frame[name].to_numpy() if table.frame[name].dtype == object else table.frame[name].array
    return pandas.DataFrame(frame, index=pandas.RangeIndex(len(table.frame)))


def _whole_frame(table: Table, names: list[str]) -> pandas.DataFrame:
    """The table as it came; columns of a CSV whose numbers are whole, as integers, so that they stay so in Parquet."""
    if not isinstance(table.sheet, Lines):
        return table.frame
    return table.frame.assign(**{name: table.frame[name].astype("Float64").astype("Int64") for name in names})


def _refuse_names(kinds: Mapping[str, Kind], frame: pandas.DataFrame) -> None:
    for name in kinds:
        if name not in frame.columns:
            raise Problem(
                f"--kind names the column {name!r}",
                "a misspelt name",
                f"one of: {', '.join(map(str, frame.columns[:20]))}",
            )
