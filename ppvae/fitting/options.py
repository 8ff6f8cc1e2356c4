"""The options of a fit, refused in plain words where they cannot be meant."""

from __future__ import annotations

import math

from torch import nn

from ppvae.errors import Problem
from ppvae.fitting.precision import PRECISIONS

DEFAULT_BATCH = 128


def batch_size_of(batch_size: int, rows: int) -> int:
    if batch_size > rows and batch_size != DEFAULT_BATCH:
        raise Problem(
            f"batch_size is {batch_size} and there are {rows} rows to train on",
            "fewer rows than expected, or a typing error",
            f"batch_size={rows} takes all rows in each step",
        )
    return min(batch_size, rows)


def refuse_options(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    clip: float | None,
    held_out: float,
    patience: int | None,
    schedule: str,
    compile: str,
    precision: str,
) -> None:
    for name, value, fine, rule in (
        ("epochs", epochs, isinstance(epochs, int) and epochs >= 0, "a whole number, 0 or more"),
        ("batch_size", batch_size, isinstance(batch_size, int) and batch_size >= 1, "a whole number of at least 1"),
        (
            "learning_rate",
            learning_rate,
            isinstance(learning_rate, (int, float)) and 0 < learning_rate < math.inf,
            "positive",
        ),
        ("seed", seed, isinstance(seed, int) and 0 <= seed < 2**63, "a whole number, 0 or more"),
        ("clip", clip, clip is None or clip > 0, "positive, or None"),
        ("held_out", held_out, 0 <= held_out < 1, "a share of the rows, 0 <= held_out < 1"),
        ("patience", patience, patience is None or patience >= 1, "a whole number of at least 1, or None"),
        ("schedule", schedule, schedule in ("cosine", "constant"), "'cosine' or 'constant'"),
        ("compile", compile, compile in ("auto", "inductor", "off"), "'auto', 'inductor' or 'off'"),
        ("precision", precision, precision in PRECISIONS, f"one of {', '.join(map(repr, PRECISIONS))}"),
    ):
        if not fine:
            raise Problem(f"{name} is {value!r}", f"{name} is {rule}", f"leave {name} out for its default")
    if patience is not None and not held_out:
        raise Problem(
            f"patience is {patience} and no rows are held out",
            "early stopping needs rows that were not trained on",
            "held_out=0.1",
        )


def refuse_no_parameters(parameters: list[nn.Parameter]) -> None:
    if not parameters:
        raise Problem("the pair has no parameters to fit", "all are frozen, or there are none", "condition it as it is")
