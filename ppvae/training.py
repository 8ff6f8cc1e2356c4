"""Fit a pair: one loop and one fused optimizer, the same for every pair and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.checking import check
from ppvae.checkpoint import Checkpoint
from ppvae.errors import Problem
from ppvae.objectives import elbo
from ppvae.pair import Pair
from ppvae.progress import Progress
from ppvae.rows import Redraw, Rows
from ppvae.staging import Step

DEFAULT_BATCH = 128


@dataclass
class Fit:
    """What `fit` leaves.

    Attributes:
        pair: the pair that was given, fitted in place.
        history: one record an epoch: ``epoch``, ``bound`` (mean over the epoch, nats per row; the objective's own
            number where its unit is None), ``held_out`` (the same of the rows set aside), ``seconds``,
            ``learning_rate``, ``analytic_kl`` (the sites whose KL was the closed form).
        stopped: why it ended: "epochs", or "held-out bound".
        step: how a step ran: "staged", or "eager" with the reason.
    """

    pair: Pair
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "epochs"
    step: str = ""

    def __repr__(self) -> str:
        bound = f"bound {self.history[-1]['bound']:.3f}" if self.history else "not trained"
        return f"Fit({len(self.history)} epochs, {bound}, stopped by {self.stopped}, {self.step})"


def fit(
    pair: Pair,
    x: Any,
    mask: Any = None,
    objective: Callable[..., Tensor] = elbo(),  # noqa: B008  (frozen)
    epochs: int = 20,
    batch_size: int = DEFAULT_BATCH,
    learning_rate: float = 1e-3,
    device: str | torch.device = "auto",
    seed: int = 0,
    compile: str = "auto",
    checkpoint: str | Path | None = None,
    *,
    schedule: str = "cosine",
    clip: float | None = None,
    held_out: float = 0.0,
    patience: int | None = None,
    redraw: Redraw | None = None,
    progress: bool | None = None,
) -> Fit:
    """Maximise the mean of an objective over the rows, by Adam.

    Args:
        pair: fitted in place, on ``device``.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name, covariates included.
        mask: True = observed; as in `ppvae.door.enter`.
        objective: a bound per row in nats; see `ppvae.objectives`.
        epochs: passes over the rows.
        batch_size: rows a step. The default shrinks to the data.
        learning_rate: Adam's, at the start.
        device: "auto" takes a GPU where there is one.
        seed: of shuffling, of draws, and of what is held out. The global generators are left as they were.
        compile: "auto" stages the step where that is exact, else steps eagerly and says why in ``Fit.step``;
            "off" steps eagerly.
        checkpoint: a file, written after each epoch; where it exists already, fitting goes on from it bit for bit.
        schedule: "cosine" lowers the learning rate to 0 over all epochs; "constant" keeps it.
        clip: the largest norm of the gradient of all parameters together.
        held_out: the share of rows set aside, whose bound is reported after each epoch.
        patience: stop when the held-out bound has not risen for so many epochs, and keep the best parameters.
        redraw: makes a fresh observation of each batch of stored x (dynamic binarization: ``torch.bernoulli``).
        progress: a progress line on standard error; None: where that is a terminal.

    Raises:
        Problem: data or a pair that `ppvae.check` refuses, an option out of range, a bound that is not finite
            (the parameters from before that epoch are kept).
    """
    if not callable(objective):
        raise Problem(
            f"the objective is {objective!r}",
            "a name stands where an objective belongs",
            "objective=ppvae.elbo(), ppvae.iw_elbo(5)",
        )
    if not isinstance(pair, Pair):
        raise Problem(
            f"a {type(pair).__name__} stands where a pair belongs", "another order of arguments", "fit(pair, x)"
        )
    _refuse_options(epochs, batch_size, learning_rate, seed, clip, held_out, patience, schedule, compile)
    pair.to(device_of(device))
    with _generators_of_its_own(seed):
        rows = Rows.enter(pair, x, mask, redraw, held_out)
        batch_size = _batch_size(batch_size, len(rows.train))
        model = nn.ModuleList([pair, *([objective] if isinstance(objective, nn.Module) else [])]).to(device_of(device))
        parameters = [p for p in model.parameters() if p.requires_grad]
        _refuse_no_parameters(parameters)
        model.eval()
        check(pair, rows.table.rows(rows.train[: max(2, min(16, batch_size))]))
        analytic = _analytic(objective, pair, rows)
        optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
        step = Step(pair, objective, parameters, staged=compile == "auto")
        steps = math.ceil(len(rows.train) / batch_size)

        def one_epoch(epoch: int, advance: Callable[[], None]) -> float:
            total = torch.zeros((), dtype=torch.float64, device=rows.train.device)
            model.train()
            for i, batch in enumerate(rows.batches(batch_size)):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * _factor(schedule, (epoch + i / steps) / epochs)
                bound = step(batch)
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                optimizer.step()
                total += bound * len(batch)  # stays on the device: no step waits for it
                advance()
            model.eval()
            return total.item() / len(rows.train)

        # last of all: where there is a file, it brings the generators' state along
        run = Checkpoint(checkpoint, model, optimizer, _fingerprint(pair, objective, rows, locals()))
        result = Fit(pair, run.history)
        with Progress(epochs, steps, run.history, show=progress) as bar:
            for epoch in range(len(run.history), epochs):
                if patience is not None and epoch - run.best_epoch >= patience and run.history:
                    result.stopped = "held-out bound"
                    break
                before = {name: value.clone() for name, value in model.state_dict().items()}
                began = time.perf_counter()
                try:
                    bound = one_epoch(epoch, bar.advance)
                    if not math.isfinite(bound):
                        raise _not_finite(f"the bound became {bound}", epoch + 1, rows)
                except BaseException as error:  # Ctrl-C too: an epoch is done or it is not
                    model.load_state_dict(before)
                    model.eval()
                    if isinstance(error, torch.linalg.LinAlgError):
                        raise _not_finite("a covariance became singular", epoch + 1, rows) from error
                    raise
                record = {"epoch": epoch + 1, "bound": bound}
                if len(rows.aside):
                    record["held_out"] = _held_out_bound(objective, pair, rows, batch_size, seed)
                record |= {
                    "seconds": time.perf_counter() - began,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "analytic_kl": analytic,
                }
                run.write(record)
                bar.report(record)
        if patience is not None:
            run.restore_best()
    result.step = step.how
    return result


def _held_out_bound(objective: Callable, pair: Pair, rows: Rows, size: int, seed: int) -> float:
    """The mean bound of the rows set aside, with the same draws after every epoch."""
    with _generators_of_its_own(seed), torch.no_grad():
        total = sum(objective(pair, rows.table.rows(index)).sum() for index in rows.aside.split(size))
    return float(total) / len(rows.aside)


def _analytic(objective: Callable, pair: Pair, rows: Rows) -> tuple[str, ...]:
    terms = getattr(objective, "terms", None)
    return terms(pair, rows.table.rows(rows.train[:2])).analytic if terms else ()


def _factor(schedule: str, done: float) -> float:
    """What the learning rate is multiplied by when a share ``done`` of the steps lies behind."""
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0


@contextmanager
def _generators_of_its_own(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def _fingerprint(pair: Pair, objective: Any, rows: Rows, options: dict[str, Any]) -> dict[str, Any]:
    """What must agree for a checkpoint to be gone on with."""
    kept = ("epochs", "batch_size", "learning_rate", "seed", "schedule", "clip", "held_out")
    name = type(objective).__name__ if isinstance(objective, nn.Module) else repr(objective)
    return {
        "pair": str(pair._built),
        "objective": name,
        "rows": len(rows.table),
        "data": rows.sums(),
        **{key: options[key] for key in kept},
    }


def device_of(device: str | torch.device) -> torch.device:
    """The device of that name; "auto": a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise Problem(f"there is no device {device!r}", "a misspelt name", "auto, cpu, or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Problem(
            "the device is cuda and torch sees no GPU", "no GPU here, or a CPU build of torch", "device='auto'"
        )
    return device


def _batch_size(batch_size: int, rows: int) -> int:
    if batch_size > rows and batch_size != DEFAULT_BATCH:
        raise Problem(
            f"batch_size is {batch_size} and there are {rows} rows to train on",
            "fewer rows than expected, or a typing error",
            f"batch_size={rows} takes all rows in each step",
        )
    return min(batch_size, rows)


def _refuse_options(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    clip: float | None,
    held_out: float,
    patience: int | None,
    schedule: str,
    compile: str,
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
        ("compile", compile, compile in ("auto", "off"), "'auto' or 'off'"),
    ):
        if not fine:
            raise Problem(f"{name} is {value!r}", f"{name} is {rule}", f"leave {name} out for its default")
    if patience is not None and not held_out:
        raise Problem(
            f"patience is {patience} and no rows are held out",
            "early stopping needs rows that were not trained on",
            "held_out=0.1",
        )


def _refuse_no_parameters(parameters: list[nn.Parameter]) -> None:
    if not parameters:
        raise Problem("the pair has no parameters to fit", "all are frozen, or there are none", "condition it as it is")


def _not_finite(seen: str, epoch: int, rows: Rows) -> Problem:
    return Problem(
        f"{seen} in epoch {epoch}",
        "steps that are too large, or values far from the scale of the model "
        f"(largest |x| observed: {_largest(rows):.3g})",
        "a smaller learning_rate, clip=10, or standardised columns; the parameters from before that epoch are kept",
    )


def _largest(rows: Rows) -> float:
    return max(float(v.nan_to_num().abs().max()) for v in rows.table.values.values())
