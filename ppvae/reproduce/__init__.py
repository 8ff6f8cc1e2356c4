"""Tables of the documents, from the data up, beside the figures that were published.

A module here names its tables in ``TABLES = {"thesis-4.1": function, …}``, and `names` finds it by that. A function
takes a `Run` and gives `Cell`\\ s. Its attribute ``seeds`` says how many seeds the command makes by default.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from ppvae.errors import Problem
from ppvae.reproduce.run import BUDGETS, Cell, Run

__all__ = ["BUDGETS", "Cell", "Run", "names", "table"]


def names() -> tuple[str, ...]:
    """The tables that can be reproduced."""
    return tuple(sorted(_tables()))


def table(name: str) -> Callable[[Run], list[Cell]]:
    """The function that makes the table of that name."""
    tables = _tables()
    if name not in tables:
        raise Problem(f"there is no table {name!r}", "a misspelt name", f"one of: {', '.join(sorted(tables))}")
    return tables[name]


def _tables() -> dict[str, Callable[[Run], list[Cell]]]:
    found: dict[str, Callable[[Run], list[Cell]]] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= getattr(importlib.import_module(f"{__name__}.{module.name}"), "TABLES", {})
    return found
