"""What a step, a log-evidence and a posterior cost, beside what they cost elsewhere: all ratios in one run.

Each case is a module here with ``case(bench)``, a generator of lists of `Record`\\ s, one list a setting, and ``SECONDS``,
about what it takes on two cores. `CASES` names them in the order in which ``ppvae bench`` runs them.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ppvae.bench.run import Bench, Record
from ppvae.errors import Problem

__all__ = ["CASES", "Bench", "Record", "module"]

CASES = (
    "training",
    "weighted",
    "stories",
    "evidence",
    "first_step",
    "exact",
    "imputation",
    "estimators",
    "data",
    "processes",
)


def module(name: str) -> ModuleType:
    """The module of the case of that name."""
    if name not in CASES:
        raise Problem(f"there is no case {name!r}", "a misspelt name", f"one of: {', '.join(CASES)}")
    return importlib.import_module(f"ppvae.bench.{name}")
