"""Parquet: columns with types, of which only the holes of columns of numbers change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ppvae.errors import Problem

if TYPE_CHECKING:
    import pandas
    import pyarrow


def ends(path: Path) -> bool:
    """Whether a name says that the file is Parquet."""
    return path.suffix.lower() in (".parquet", ".pq")


def arrow() -> ModuleType:
    """The library that reads and writes Parquet, or a Problem that says how to get it."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise Problem(
            "pyarrow is not installed",
            "Parquet files are read and written by it; CSV files need nothing more",
            "pip install 'ppvae[parquet]'",
        ) from None
    return pyarrow


def read(path: Path) -> tuple[pyarrow.Table, pandas.DataFrame]:
    """Read a file, every column with its type; and the same as pandas has it.

    Raises:
        Problem: no such file, or no Parquet file.
    """
    pyarrow = arrow()
    try:
        with path.open("rb") as file:
            sheet = pyarrow.parquet.read_table(file)
        sheet.validate(full=True)
        _index(sheet)
        return sheet, sheet.to_pandas()
    except FileNotFoundError:
        raise Problem(f"there is no file {path}", "a misspelt path", "the path of a CSV or Parquet file") from None
    except Exception as error:  # Arrow's own, and whatever a damaged note to pandas leads to there
        cause = "a folder, a file of another kind under this name, or one that was cut short"
        raise Problem(f"{path} cannot be read: {error}", cause, "write it again; a CSV file ends with .csv") from error


def numbers(sheet: pyarrow.Table) -> list[int]:
    """Where the columns of numbers stand: integers, floats and decimals that are no index of a DataFrame."""
    types, index = arrow().types, _index(sheet)
    return [
        j
        for j, field in enumerate(sheet.schema)
        if field.name not in index
        and (types.is_integer(field.type) or types.is_floating(field.type) or types.is_decimal(field.type))
    ]


def values(sheet: pyarrow.Table, positions: Sequence[int]) -> np.ndarray:
    """The columns at these positions as float64, NaN = missing, (N, D).

    Raises:
        Problem: whole numbers too large for float64 in a column with holes, whose other cells would change.
    """
    return np.stack([_floats(sheet, j) for j in positions], 1)


def filled(sheet: pyarrow.Table, positions: Sequence[int], completed: np.ndarray, gaps: np.ndarray) -> pyarrow.Table:
    """Put numbers in the place of holes.

    A column of floats keeps its type; one of integers or decimals becomes float64 if it had holes. Columns
    without holes are not touched, nor is the index of a DataFrame.

    Args:
        sheet: the table.
        positions: where the columns of numbers stand, D.
        completed: their values, (N, D).
        gaps: which of them were missing, (N, D).
    """
    pyarrow, changed = arrow(), {}
    for column, j in enumerate(positions):
        if not gaps[:, column].any():
            continue
        field = sheet.schema.field(j)
        if not pyarrow.types.is_floating(field.type):
            field = field.with_type(pyarrow.float64())
            changed[field.name] = "float64"
        array = pyarrow.array(completed[:, column]).cast(field.type)
        sheet = sheet.set_column(j, field, array)
    return sheet.replace_schema_metadata(_described(sheet, changed))


def put(sheet: pyarrow.Table, position: int, rows: Sequence[int], cells: Sequence[object]) -> pyarrow.Table:
    """Put values into rows of one column, which keeps its type; a column of categories keeps them and their order.

    Args:
        sheet: the table.
        position: of the column.
        rows: M rows.
        cells: M values of the column's type.
    """
    pyarrow, field = arrow(), sheet.schema.field(position)
    column = sheet.column(position)
    if not pyarrow.types.is_dictionary(field.type):
        array = pyarrow.array(_with(column.to_pylist(), rows, cells), type=field.type)
        return sheet.set_column(position, field, array)
    column = column.unify_dictionaries().combine_chunks()
    column = column.chunk(0) if isinstance(column, pyarrow.ChunkedArray) else column
    code = {value: n for n, value in enumerate(column.dictionary.to_pylist())}
    codes = _with(column.indices.to_pylist(), rows, [code[cell] for cell in cells])
    array = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(codes, type=field.type.index_type), column.dictionary, ordered=field.type.ordered
    )
    return sheet.set_column(position, field, array)


def _with(values: list[object], rows: Sequence[int], cells: Sequence[object]) -> list[object]:
    for n, cell in zip(rows, cells, strict=True):
        values[n] = cell
    return values


def numbered(tables: Sequence[pyarrow.Table], name: str) -> pyarrow.Table:
    """Tables below one another, the number of each, from 1, in a first column."""
    pyarrow = arrow()
    return pyarrow.concat_tables(
        [table.add_column(0, name, pyarrow.array(np.full(len(table), s))) for s, table in enumerate(tables, 1)]
    )


def _floats(sheet: pyarrow.Table, j: int) -> np.ndarray:
    pyarrow, column = arrow(), sheet.column(j)
    exact = column.null_count > 0 and pyarrow.types.is_integer(column.type)
    try:
        column = column.cast(pyarrow.float64(), safe=exact)
    except pyarrow.ArrowInvalid as error:
        raise Problem(
            f"column {sheet.column_names[j]!r} has holes and whole numbers beyond 2^53",
            "completed cells are no whole numbers, and as float64 the others would lose digits",
            "if it holds codes, turn it into text; else divide it by a power of ten",
        ) from error
    return column.to_numpy()


def _index(sheet: pyarrow.Table) -> set[str]:
    kept = json.loads((sheet.schema.metadata or {}).get(b"pandas", b"{}"))
    return {name for name in kept.get("index_columns", []) if isinstance(name, str)}


def _described(sheet: pyarrow.Table, changed: dict[str, str]) -> dict[bytes, bytes] | None:
    """What the file says of its columns to pandas, with the types that changed."""
    metadata = sheet.schema.metadata
    if not metadata or b"pandas" not in metadata:
        return metadata
    kept = json.loads(metadata[b"pandas"])
    for column in kept.get("columns", []):
        if column.get("field_name") in changed:
            column["pandas_type"] = column["numpy_type"] = changed[column["field_name"]]
    return {**metadata, b"pandas": json.dumps(kept).encode()}
