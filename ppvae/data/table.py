"""Tables with holes: read them from CSV, Parquet or a DataFrame, and write them whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ppvae.data import parquet
from ppvae.data.cells import Text, numeric
from ppvae.data.lines import Lines, distinct, meant, scan
from ppvae.errors import Problem
from ppvae.files import write_whole

if TYPE_CHECKING:
    import pandas
    import pyarrow


@dataclass(frozen=True, eq=False)
class Table:
    """Hold a table: its columns of numbers as numbers, and all of it as it came.

    Attributes:
        values: (N, D) float64, NaN = missing.
        columns: D names, of the columns of numbers.
        frame: the whole table as it came; of a CSV, numbers as numbers, and an empty cell of text is None.
        positions: where among the columns of the table those of numbers stand, D.
        sheet: the file as it is written; None of a DataFrame.
        where: says where row n came from: a line of the file, the number or the label of a row.
    """

    values: np.ndarray
    columns: list[str]
    frame: pandas.DataFrame
    positions: list[int]
    sheet: Lines | pyarrow.Table | None = field(repr=False)
    where: Callable[[int], str] = field(repr=False)

    @property
    def passed(self) -> list[str]:
        """The columns that are not numbers."""
        return [str(name) for name in self.frame.columns if str(name) not in set(self.columns)]


def read_table(path: str | Path, text: Text = "refuse") -> Table:
    """Read a table whose columns have names: Parquet by its ending, any other file as comma-separated lines.

    In a CSV, empty cells, NA, nan, ? … are missing, and a column is text if fewer than half of its cells that
    are not missing are numbers. In Parquet the types say both.

    Args:
        path: of the file.
        text: "refuse" columns that are not numbers, "keep" them aside, or "words": of those only, too.

    Raises:
        Problem: no such file, an empty or ragged one, another separator, no header, unnamed or equal
            columns, text or infinities among numbers (with their line numbers), fewer than two rows.
    """
    path = Path(path)
    if parquet.ends(path):
        return _read_parquet(path, text)
    pandas = _pandas()
    lines = scan(path)
    cells = pandas.DataFrame([list(map(meant, row)) for row in lines.rows], columns=lines.names, dtype=object)

    def where(n: int) -> str:
        return f"line {lines.numbers[n]}"

    frame, positions = numeric(_whole(cells), where, text)
    names = [lines.names[j] for j in positions]
    values = _floats(frame[names])
    for name in set(frame.columns) - set(names):
        frame[name] = frame[name].where(frame[name].str.strip() != "", None)
    return Table(values, names, frame, positions, lines, where)


def _read_parquet(path: Path, text: Text) -> Table:
    sheet, frame = parquet.read(path)
    names = sheet.column_names
    frame.columns = list(map(str, frame.columns))
    positions = parquet.numbers(sheet)
    kept = [names[j] for j in positions]
    distinct(list(frame.columns))
    others = [name for name in frame.columns if name not in set(kept)]
    if (not kept and text != "words") or (others and text == "refuse"):
        raise Problem(
            f"{path} has {'no column of numbers' if not kept else 'columns that are not numbers'}: "
            + ", ".join(f"{name!r} ({sheet.schema.field(name).type})" for name in others[:10]),
            "text, dates, categories or truth values; whole and decimal numbers only are taken as numbers",
            "leave them out, or turn them into numbers first",
        )
    values = parquet.values(_whole(sheet), positions) if positions else np.empty((len(_whole(sheet)), 0))

    def where(n: int) -> str:
        return f"row {n + 1}"

    infinite = np.argwhere(np.isinf(values))
    if len(infinite):
        n, j = infinite[0]
        seen = f"column {kept[j]!r} is infinite in {len(infinite)} cells, the first in {where(n)}"
        raise Problem(seen, "a division by zero", "finite numbers, or null")
    return Table(values, kept, frame, positions, sheet, where)


def from_frame(frame: pandas.DataFrame) -> Table:
    """Take a DataFrame of numbers; NaN, None, NA and the markers of `read_table` are missing.

    Raises:
        Problem: as `read_table`, with row labels in place of line numbers.
    """
    if not isinstance(frame, _pandas().DataFrame):
        raise Problem(f"a {type(frame).__name__}", "from_frame takes a DataFrame", "pandas.DataFrame(x)")
    names = [str(name) for name in frame.columns]
    distinct(names)

    def where(n: int) -> str:
        return f"row {frame.index[n]!r}"

    numbers, positions = numeric(_whole(frame), where)
    return Table(_floats(numbers), names, frame, positions, None, where)


def write_table(frame: pandas.DataFrame, path: str | Path, force: bool = False) -> None:
    """Write a DataFrame as CSV without its index, whole or not at all; every float64 reads back equal.

    Args:
        frame: the table.
        path: in a folder that exists.
        force: replace an existing file.

    Raises:
        Problem: the file exists (without force) or is no ordinary file; no such folder; no permission.
    """
    write_new(path, lambda draft: frame.to_csv(draft, index=False), force)


def write_new(path: str | Path, write: Callable[[str], object], force: bool) -> None:
    """Write a file whole or not at all, in the place of another only with force; errors as `write_table`."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise Problem(f"{path} is no ordinary file", "it is a folder or a device", "the name of a file")
    if path.exists() and not force:
        raise Problem(f"{path} exists", "it would be overwritten", "another name, or force")
    try:
        write_whole(path, write)
    except OSError as error:
        raise Problem(
            f"{path} cannot be written: {error}", "no permission, or a full disk", "another folder"
        ) from error


def _whole(table: pandas.DataFrame | pyarrow.Table) -> pandas.DataFrame | pyarrow.Table:
    if len(table) < 2:
        raise Problem(f"the table has {len(table)} rows", "a spread needs at least two", "a table with more rows")
    return table


def _floats(frame: pandas.DataFrame) -> np.ndarray:
    # Row by row in memory, as from Parquet: sums, and so the fit, then agree to the last bit.
    return np.ascontiguousarray(frame.astype("Float64").to_numpy(np.float64, na_value=np.nan))


def _pandas() -> ModuleType:
    try:
        import pandas
    except ImportError:
        raise Problem("pandas is not installed", "it is needed for tables only", "pip install pandas") from None
    return pandas
