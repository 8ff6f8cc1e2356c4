"""What every table shares: how much may be spent on it, and what a cell holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from ppvae.errors import Problem

BUDGETS = ("smoke", "cpu", "full")


@dataclass(frozen=True)
class Run:
    """How a table is made.

    Attributes:
        seeds: repetitions, each with its own split, masks and draws: seeds 0, 1, …. The command makes 10, or as many as the
            attribute ``seeds`` of the table's function says.
        budget: "smoke" shows that it runs, on few rows; "cpu" takes minutes; "full" what the table needs.
        figures: the folder for pictures, or None.
        say: is told how far it is.
        data: what a table read, by name: what was done to the numbers, and how many rows. The table fills it.
    """

    seeds: int = 10
    budget: str = "cpu"
    figures: Path | None = None
    say: Callable[[str], None] = field(default=lambda text: None)
    data: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise Problem(f"there is no budget {self.budget!r}", "a misspelt name", "smoke, cpu or full")
        if not isinstance(self.seeds, int) or isinstance(self.seeds, bool) or self.seeds < 1:
            raise Problem(
                f"seeds is {self.seeds!r}", "a number of repetitions is a whole number of at least 1", "seeds=10"
            )


class Cell(NamedTuple):
    """One figure of a table."""

    row: str
    column: str
    value: float
    sd: float | None
    """Standard deviation over seeds; None where there was one seed."""
    reference: float | None
    """The published figure; None for a row or column that the document does not have."""


Place = tuple[str, str]
Table = TypeVar("Table", bound=Callable[[Run], list[Cell]])


def seeds(number: int) -> Callable[[Table], Table]:
    """As the attribute ``seeds`` of a table's function: how many the command makes by default."""

    def mark(table: Table) -> Table:
        vars(table)["seeds"] = number
        return table

    return mark


def cells(runs: list[dict[Place, float]], reference: Mapping[Place, float]) -> list[Cell]:
    """Average over seeds what each seed found by (row, column), in the order of the first, which has every place."""
    found = []
    for place in runs[0]:
        values = [run[place] for run in runs if place in run]
        mean = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else None
        found.append(Cell(*place, mean, spread, reference.get(place)))
    return found
