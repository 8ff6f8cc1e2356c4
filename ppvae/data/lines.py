"""Take a CSV file apart into cells, and refuse what is no table."""

from __future__ import annotations

import csv
from pathlib import Path

from ppvae.errors import Problem


def scan(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Read the D column names of a CSV, its N rows of D cells, and the line on which each row ends.

    Blank lines are skipped.

    Raises:
        Problem: no such file, not UTF-8, empty, ragged, another separator, or bad column names.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            written = ("\n" if line.isspace() else line for line in file)
            reader = csv.reader(written, skipinitialspace=True, strict=True)
            header = next(filter(None, reader), None)
            if header is None:
                raise Problem(f"{path} is empty", "nothing was saved", "a CSV file with a header line and rows")
            rows, lines = [], []
            for row in filter(None, reader):
                if not rows:
                    _separated(path, header, row)
                _even(path, header, row, reader.line_num)
                rows.append(row)
                lines.append(reader.line_num)
    except FileNotFoundError:
        raise Problem(f"there is no file {path}", "a misspelt path", "the path of a CSV file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        cause = "a folder, a spreadsheet (.xlsx), text that is not UTF-8, or a quote that does not close"
        raise Problem(f"{path} cannot be read: {error}", cause, 'save it as "CSV UTF-8 (comma delimited)"') from error
    names = [name.strip() for name in header]
    distinct(names)
    return names, rows, lines


def _separated(path: Path, header: list[str], row: list[str]) -> None:
    for sign in ";\t|":
        if len(header) == 1 and (sign in header[0] or sign in row[0]):
            decimal = ", decimal=','" if sign == ";" else ""
            raise Problem(
                f"{path} has one column, {header[0]!r}, with {sign!r} inside",
                f"its values are separated by {sign!r}, not by commas",
                f"pandas.read_csv({str(path)!r}, sep={sign!r}{decimal}).to_csv('commas.csv', index=False)",
            )


def _even(path: Path, header: list[str], row: list[str], line: int) -> None:
    if len(row) != len(header):
        raise Problem(
            f"line {line} of {path} has {len(row)} values, the header has {len(header)}",
            "a comma inside a number or text, or a line cut short",
            'put such values in quotes ("…"), or correct the line',
        )


def distinct(names: list[str]) -> None:
    """Refuse names that are equal or empty, and numbers that stand where the header should."""
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise Problem(f"two columns are named {', '.join(again)}", "a copied column, or no header", "rename one")
    if "" in names:
        cause = "row numbers saved with the table (to_csv without index=False), or a comma at each line's end"
        raise Problem(f"column {names.index('') + 1} has no name", cause, "name it, or take it out")
    if all(map(_number, names)) and any("." in name for name in names):
        raise Problem(f"the columns are named {', '.join(names[:5])}", "the header line is missing", "add one")


def _number(name: str) -> bool:
    try:
        return float(name) == float(name)
    except ValueError:
        return False
