"""Write a table with its holes filled; what stood in it stays as it stood."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ppvae.data import parquet
from ppvae.data.lines import Lines
from ppvae.data.table import Table, write_new


def write_completed(table: Table, filled: np.ndarray, path: str | Path, force: bool = False) -> None:
    """Write a table with its holes filled, whole or not at all; Parquet by the ending, else CSV.

    From CSV to CSV every other cell is written as it was, with its quotes, the line ends and the byte order
    mark of the file. From and to Parquet columns keep their types, see `ppvae.data.parquet.filled`.

    Args:
        table: read from a file.
        filled: what to put into its M missing cells, row by row: (M,); or (S, M) for S tables below one
            another, numbered in a first column "draw" (".draw" if the table has one of that name). Numbers; or objects, as
            `ppvae.imputation.sheet.Sheet.cells` gives them: a string is written into a CSV as it is.
        path: in a folder that exists.
        force: replace an existing file.

    Raises:
        Problem: the file exists (without force) or is no ordinary file; no such folder; no permission; pyarrow
            is not installed.
    """
    path = Path(path)
    if isinstance(table.sheet, Lines) and not parquet.ends(path):
        return write_new(path, lambda draft: _write_lines(table, filled, draft), force)
    sheet = _typed(table, filled)
    if parquet.ends(path):
        return write_new(path, lambda draft: parquet.arrow().parquet.write_table(sheet, draft), force)
    frame = sheet.to_pandas()
    named = any(name is not None for name in frame.index.names)
    index = named or frame.index.inferred_type != "integer"  # row numbers without a name say nothing
    return write_new(path, lambda draft: frame.to_csv(draft, index=index), force)


def number_name(table: Table) -> str:
    """What the column is called that numbers draws."""
    return "draw" if "draw" not in map(str, table.frame.columns) else ".draw"


def _write_lines(table: Table, filled: np.ndarray, draft: str) -> None:
    lines: Any = table.sheet
    gaps = np.argwhere(np.isnan(table.values))  # (M, 2)
    holes = defaultdict(list)
    for m, (n, j) in enumerate(gaps.tolist()):
        holes[n].append((table.positions[j], m))
    whole = [",".join(row) if n not in holes else "" for n, row in enumerate(lines.rows)]
    with open(draft, "w", encoding="utf-8", newline="") as file:
        many = filled.ndim == 2
        file.write(lines.mark + f"{number_name(table)}," * many + ",".join(lines.header) + lines.ending)
        for s, numbers in enumerate(np.atleast_2d(filled), 1):
            first, numbers = f"{s}," * many, numbers.tolist()
            for n, line in enumerate(whole):
                if n in holes:
                    row = lines.rows[n].copy()
                    for position, m in holes[n]:
                        row[position] = numbers[m] if isinstance(numbers[m], str) else repr(numbers[m])
                    line = ",".join(row)
                file.write(first + line + lines.ending)


def _typed(table: Table, filled: np.ndarray) -> Any:
    pyarrow = parquet.arrow()
    sheet = table.sheet
    if isinstance(sheet, Lines):
        sheet = pyarrow.Table.from_pandas(table.frame, preserve_index=False)
    gaps = np.isnan(table.values)

    def one(cells: np.ndarray) -> object:
        completed, where = table.values.copy(), np.argwhere(gaps)
        number = np.array([isinstance(cell, float) for cell in cells.tolist()], dtype=bool)
        completed[tuple(where[number].T)] = cells[number].astype(float)
        done = parquet.filled(sheet, table.positions, completed, gaps & ~_marked(gaps, ~number))
        for column in np.unique(where[~number, 1]):  # whole numbers and classes keep the type of their column
            chosen = ~number & (where[:, 1] == column)
            done = parquet.put(done, table.positions[column], where[chosen, 0], cells[chosen].tolist())
        return done

    return parquet.numbered(list(map(one, filled)), number_name(table)) if filled.ndim == 2 else one(filled)


def _marked(gaps: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Which entries (N, D) hold those of the M missing cells."""
    marked = np.zeros_like(gaps)
    marked[gaps] = cells
    return marked
