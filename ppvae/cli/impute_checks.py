"""What `ppvae impute` refuses before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from ppvae.cli.shared import refuse_columns, refuse_existing
from ppvae.data import Table, parquet
from ppvae.errors import Problem


def refuse_paths(
    table: Path, output: Path, many: Path | None, report: Path | None, json: Path | None, force: bool
) -> None:
    """Refuse, before any work is done, what would be lost or could not be written."""
    if output.suffix.lower() not in ("", ".csv", ".txt") and not parquet.ends(output):
        raise Problem(
            f"the output is a {output.suffix} file: {output}",
            "tables are written as CSV or Parquet, by the ending",
            output.with_suffix(".csv").name,
        )
    written = {path: name for path, name in ((output, "output"), (many, "output"), (report, "report")) if path}
    for path, name in written.items():
        refuse_existing(path, force)
        if path.exists() and table.exists() and path.samefile(table):
            raise Problem(f"the {name} is the input: {path}", "the table with holes would be lost", "another name")
    places = [path.resolve() for path in (output, many, report, json) if path]
    if len(set(places)) < len(places):
        twice = next(str(path) for path in places if places.count(path) > 1)
        raise Problem(f"{twice} is named twice", "one file would replace the other", "another name")
    for path in [*written, *([json] if json else [])]:
        try:
            tempfile.TemporaryFile(dir=path.parent).close()
        except OSError as error:
            raise Problem(f"{path.parent} cannot be written: {error}", "no permission", "another folder") from error
    if parquet.ends(table) or parquet.ends(output):
        parquet.arrow()


def refuse_table(holes: Table, x: Tensor, mixed: bool) -> None:
    """Refuse what cannot be completed: one column, no hole, a column that is empty or never varies, a row without a cell."""
    if x.shape[1] < 2:
        raise Problem(
            f"the table has one column{' of numbers' if holes.passed and not mixed else ''}",
            f"a missing cell is inferred from the other {'cells' if mixed else 'numbers'} of its row",
            f"a table with more columns{'' if mixed else ' of numbers'}",
        )
    missing = x.isnan()
    if not missing.any():
        raise Problem(
            f"no cell of the table{' of numbers' if holes.passed and not mixed else ''} is missing",
            "a marker that was read as a number, holes in text only, or the wrong file",
            "leave missing cells empty, or write NA",
        )
    refuse_columns(x, holes.columns)
    empty = missing.all(1).nonzero().flatten().tolist()
    if empty:
        raise Problem(
            f"{'nothing' if mixed else 'no number'} is observed in {len(empty)} row{'s' if len(empty) > 1 else ''} of the table "
            f"({', '.join(map(holes.where, empty[:5]))})",
            "blank lines, or rows that were never filled in",
            "remove them: there is nothing to infer them from",
        )
