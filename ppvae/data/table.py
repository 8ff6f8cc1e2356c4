"""Tables with holes: read them from CSV or a DataFrame, and write them whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ppvae.data.cells import numeric
from ppvae.data.lines import distinct, scan
from ppvae.errors import Problem
from ppvae.files import write_whole

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Table:
    """Hold a table as numbers.

    Attributes:
        values: (N, D) float64, NaN = missing.
        columns: D names.
        frame: the table as it came; of a CSV, its cells as numbers.
        cells: the table with its cells untouched; of a CSV, their text.
    """

    values: np.ndarray
    columns: list[str]
    frame: pandas.DataFrame
    cells: pandas.DataFrame


def read_table(path: str | Path) -> Table:
    """Read a comma-separated file of numbers with one header line; empty cells, NA, nan, ? … are missing.

    Raises:
        Problem: no such file, an empty or ragged one, another separator, no header, unnamed or equal
            columns, text or infinities (with their line numbers), fewer than two rows.
    """
    pandas = _pandas()
    names, rows, lines = scan(Path(path))
    text = pandas.DataFrame(rows, columns=names, dtype=object)
    frame = numeric(_whole(text), lambda n: f"line {lines[n]}")
    return Table(_floats(frame), names, frame, text)


def from_frame(frame: pandas.DataFrame) -> Table:
    """Take a DataFrame of numbers; NaN, None, NA and the markers of `read_table` are missing.

    Raises:
        Problem: as `read_table`, with row labels in place of line numbers.
    """
    if not isinstance(frame, _pandas().DataFrame):
        raise Problem(f"a {type(frame).__name__}", "from_frame takes a DataFrame", "pandas.DataFrame(x)")
    names = [str(name) for name in frame.columns]
    distinct(names)
    return Table(_floats(numeric(_whole(frame), lambda n: f"row {frame.index[n]!r}")), names, frame, frame)


def write_table(frame: pandas.DataFrame, path: str | Path, force: bool = False) -> None:
    """Write a DataFrame as CSV without its index, whole or not at all; every float64 reads back equal.

    Args:
        frame: the table.
        path: in a folder that exists.
        force: replace an existing file.

    Raises:
        Problem: the file exists (without force) or is no ordinary file; no such folder; no permission.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise Problem(f"{path} is no ordinary file", "it is a folder or a device", "the name of a file")
    if path.exists() and not force:
        raise Problem(f"{path} exists", "it would be overwritten", "another name, or force")
    try:
        write_whole(path, lambda draft: frame.to_csv(draft, index=False))
    except OSError as error:
        raise Problem(
            f"{path} cannot be written: {error}", "no permission, or a full disk", "another folder"
        ) from error


def _whole(frame: pandas.DataFrame) -> pandas.DataFrame:
    if len(frame) < 2:
        raise Problem(f"the table has {len(frame)} rows", "a spread needs at least two", "a table with more rows")
    return frame


def _floats(frame: pandas.DataFrame) -> np.ndarray:
    return frame.astype("Float64").to_numpy(np.float64, na_value=np.nan)


def _pandas() -> ModuleType:
    try:
        import pandas
    except ImportError:
        raise Problem("pandas is not installed", "it is needed for tables only", "pip install pandas") from None
    return pandas
