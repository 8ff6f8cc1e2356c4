"""Take a CSV file apart into cells as they are written, and refuse what is no table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ppvae.errors import Problem

# A cell and what ends it. Python's csv module gives what a cell means; what is passed through must also keep
# how it was written: its quotes, its blanks, the line breaks of the file.
CELL = re.compile(r'([ \t]*"[^"]*(?:""[^"]*)*"[ \t]*|(?![ \t]*")[^,\r\n]*)(,|\r\n|\r|\n|\Z)')
BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, eq=False)
class Lines:
    """A CSV file as it is written.

    Attributes:
        header: the column names, C cells.
        rows: N rows of C cells, quotes and blanks included.
        numbers: the line on which each row ends.
        ending: of the lines.
        mark: the byte order mark that spreadsheets put first, or nothing.
    """

    header: list[str]
    rows: list[list[str]]
    numbers: list[int]
    ending: str
    mark: str

    @property
    def names(self) -> list[str]:
        return [meant(name).strip() for name in self.header]


def meant(cell: str) -> str:
    """What a cell says, without the quotes around it."""
    if '"' not in cell or not cell.lstrip(" \t").startswith('"'):
        return cell
    return cell.strip(" \t")[1:-1].replace('""', '"')


def scan(path: Path) -> Lines:
    """Read the column names of a CSV, its rows, and the line on which each row ends. Blank lines are skipped.

    Raises:
        Problem: no such file, not UTF-8, empty, ragged, another separator, or bad column names.
    """
    cause = "a folder, a spreadsheet (.xlsx), text that is not UTF-8, or a quote that does not close"
    remedy = 'save it as "CSV UTF-8 (comma delimited)"'
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise Problem(f"there is no file {path}", "a misspelt path", "the path of a CSV or Parquet file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{path} cannot be read: {error}", cause, remedy) from error
    mark = "\ufeff" * text.startswith("\ufeff")
    header: list[str] | None = None
    rows: list[list[str]] = []
    numbers: list[int] = []
    for row, line in _records(text.removeprefix(mark)):
        if row is None:
            seen = f"{path} cannot be read: a quoted cell that opens on line {line} does not end at its quote"
            raise Problem(seen, cause, remedy)
        if len(row) == 1 and not row[0].strip():
            continue
        if header is None:
            header = row
            continue
        if not rows:
            _separated(path, header, row)
        _even(path, header, row, line)
        rows.append(row)
        numbers.append(line)
    if header is None:
        raise Problem(f"{path} is empty", "nothing was saved", "a CSV file with a header line and rows")
    ending = BREAK.search(text)
    lines = Lines(header, rows, numbers, ending.group() if ending else "\n", mark)
    distinct(lines.names)
    return lines


def _records(text: str) -> Iterator[tuple[list[str] | None, int]]:
    """Rows of cells, with the line on which each ends; None where a quote goes wrong, with its line."""
    row, line, position = [], 1, 0
    for match in CELL.finditer(text):
        if match.start() != position:
            yield None, line
            return
        cell, end = match.groups()
        position = match.end()
        row.append(cell)
        if '"' in cell:
            line += len(BREAK.findall(cell))
        if end != ",":
            yield row, line
            row, line = [], line + 1


def _separated(path: Path, header: list[str], row: list[str]) -> None:
    first, second = ",".join(header), ",".join(row)
    for sign in ";\t|":
        between = len(header) <= first.count(sign) <= second.count(sign)  # more often than the comma, and in both lines
        if between or (len(header) == 1 and sign in second):
            decimal = ", decimal=','" if sign == ";" else ""
            raise Problem(
                f"{path} has {sign!r} inside its values: {first[:60]!r}",
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
