"""What every case is given, and what it gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import NamedTuple

import torch

from ppvae.bench.harness import Unavailable, Variant, compare, ready


class Record(NamedTuple):
    """The figures of one variant in one setting.

    Attributes:
        setting: what was worked on ("batch 128").
        variant: who did it, and how.
        figures: by name; ``x_low`` and ``x_high`` are the quartiles of ``x``. None: not known here.
    """

    setting: str
    variant: str
    figures: dict[str, float | None]


@dataclass
class Bench:
    """How cases are run.

    Attributes:
        rounds: of each comparison; None: what the case thinks right.
        device: where torch works.
        seed: of weights, rows, draws and orders.
        say: is told how far it is.
        left_out: the variants that could not be run, and why.
    """

    rounds: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    say: Callable[[str], None] = field(default=lambda text: None)
    left_out: dict[str, str] = field(default_factory=dict)

    def compare(self, setting: str, variants: Mapping[str, Variant], reference: str, rounds: int) -> list[Record]:
        """The records of one setting; ``rounds`` are those of the case, unless others were asked for."""
        self.say(setting)
        built = {}
        for name, variant in variants.items():
            try:
                built[name] = ready(variant, self.device)
            except Unavailable as reason:
                self.leave_out(f"{name} ({setting})", str(reason))
        found = compare(built, reference, self.rounds or rounds, self.device, self.seed)
        return [Record(setting, name, values) for name, values in found.items()]

    def peer(self, module: str, package: str) -> ModuleType | None:
        """A module of this folder that needs another library; None, said once, where that cannot be imported."""
        try:
            return importlib.import_module(f"ppvae.bench.{module}")
        except Exception as error:  # one that is there, and does not suit the others' versions, raises anything
            self.leave_out(package, f"{type(error).__name__}: {error}; try pip install 'ppvae[bench]'")
            return None

    def leave_out(self, variant: str, reason: str) -> None:
        """Say, once, that a variant is not run, and why."""
        if variant not in self.left_out:
            self.left_out[variant] = reason
            self.say(f"without {variant}: {reason}")
