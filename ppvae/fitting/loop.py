"""Fit a pair: one loop and one fused optimizer, the same for every pair and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.checking import check
from ppvae.errors import Problem
from ppvae.fitting.checkpoint import Checkpoint
from ppvae.fitting.diagnosis import NotFinite, first_not_finite, not_finite
from ppvae.fitting.events import Events
from ppvae.fitting.options import DEFAULT_BATCH, batch_size_of, refuse_no_parameters, refuse_options
from ppvae.fitting.passes import Passes
from ppvae.fitting.precision import precise
from ppvae.fitting.processes import ALONE, join
from ppvae.fitting.progress import Progress
from ppvae.fitting.rows import LOOKED_AT, Redraw, Rows
from ppvae.fitting.together import refuse_unshared
from ppvae.fitting.update import Update
from ppvae.machine import own_generators
from ppvae.objectives import elbo
from ppvae.pair import Pair


@dataclass
class Fit:
    """What `fit` leaves.

    Attributes:
        pair: the pair that was given, fitted in place.
        history: one record an epoch: ``epoch``, ``bound`` (mean over the epoch, nats per row; the objective's own
            number where its unit is None), ``held_out`` (the same of the rows set aside), ``seconds``,
            ``learning_rate``, ``analytic_kl`` (the sites whose KL was the closed form), ``likelihood`` and ``kl`` by site
            (means over the epoch, where the objective has such terms), ``kl_weight`` or ``capacity`` (what a schedule
            stood at in the epoch's last step).
        stopped: why it ended: "epochs", or "held-out bound".
        step: how a step ran: "staged", with "CUDA graph" or "inductor", or "eager" with the reason; and in how many
            processes, of which none records CUDA graphs.
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
    precision: str = "float32",
    schedule: str = "cosine",
    clip: float | None = None,
    held_out: float = 0.0,
    patience: int | None = None,
    redraw: Redraw | None = None,
    progress: bool | None = None,
    tensorboard: str | Path | None = None,
) -> Fit:
    """Maximise the mean of an objective over the rows, by Adam.

    Started in several processes by ``torchrun --nproc-per-node=N script.py`` (each with the same script, data and options)
    it is one fit: each process steps on its part of every batch, on a GPU of its own where there are GPUs, and the gradients
    are added up. Batches, draws and so each step's bound are those of one process, up to rounding. The first process
    writes the checkpoint and the progress line; any number of processes goes on from a checkpoint. Where one ends, all end.

    Args:
        pair: fitted in place, on ``device``.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name, covariates included. A `numpy.memmap`
            (``np.load(path, mmap_mode="r")``), for x or a mask, stays in its file and is read a batch at a time, ahead of the
            steps; the fit has the bits that the same rows in memory would give.
        mask: True = observed; as in `ppvae.door.enter`.
        objective: a bound per row in nats; see `ppvae.objectives`.
        epochs: passes over the rows.
        batch_size: rows a step, of all processes together. The default shrinks to the data.
        learning_rate: Adam's, at the start.
        device: "auto" takes a GPU where there is one.
        seed: of shuffling, of draws, and of what is held out. The global generators are left as they were.
        compile: "auto" stages the step where that is exact, else steps eagerly and says why in ``Fit.step``;
            "off" steps eagerly; "inductor" hands the staged step to `torch.compile`. On a GPU a staged update is recorded
            as one CUDA graph.
        checkpoint: a run folder (`ppvae.fitting.folder`), made where it does not exist. What it takes to go on is written
            there every ten seconds or more, and at the end; where it holds that, fitting goes on from it bit for bit.
        precision: of products: "float32" leaves them as they are, "tf32" and "bf16" round them (`ppvae.fitting.precision`);
            log-probabilities and weights are in float32 in any case.
        schedule: "cosine" lowers the learning rate to 0 over all epochs; "constant" keeps it.
        clip: the largest norm of the gradient of all parameters together.
        held_out: the share of rows set aside, whose bound is reported after each epoch.
        patience: stop when the held-out bound has not risen for so many epochs, and keep the best parameters.
        redraw: makes a fresh observation of each batch of stored x (dynamic binarization: ``torch.bernoulli``). It may be wider than
            what is stored, which then only counts rows: examples made on the fly (`ppvae.data.sprites`).
        progress: a progress line on standard error; None: where that is a terminal.
        tensorboard: a folder for TensorBoard's event files, one scalar a number and epoch.

    Raises:
        Problem: data or a pair that `ppvae.check` refuses, an option out of range, a bound that is not finite
            (the parameters from before that epoch are kept). In several processes also what would not be the fit of one:
            a coupled objective (free bits), BatchNorm, dropout, draws whose numbers cannot be told apart by rows.
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
    refuse_options(epochs, batch_size, learning_rate, seed, clip, held_out, patience, schedule, compile, precision)
    processes, home = join(device)
    pair.to(home)
    with own_generators(seed), precise(pair, precision), processes.quiet():
        rows = Rows.enter(pair, x, mask, redraw, held_out)
        batch_size = batch_size_of(batch_size, len(rows.train))
        model = nn.ModuleList([pair, *([objective] if isinstance(objective, nn.Module) else [])]).to(home)
        parameters = [p for p in model.parameters() if p.requires_grad]
        refuse_no_parameters(parameters)
        of = _fingerprint(pair, objective, rows, locals())
        processes.agree({**of, **{f"the shape of {name}": tuple(v.shape) for name, v in model.state_dict().items()}})
        processes.copy(model)
        model.eval()
        few = rows.train[:LOOKED_AT]
        check(pair, rows.table.rows(few[: max(2, batch_size)]), objective=objective)
        refuse_unshared(pair, objective, model, parameters, rows.table.rows(few), processes)
        analytic = _analytic(objective, pair, rows)
        update = Update(pair, objective, parameters, learning_rate, schedule, clip, compile, processes)
        passes = Passes(model, rows, batch_size, epochs, processes)

        # last of all: where there is a file, it brings the generators' state along
        run = Checkpoint(checkpoint, model, update.optimizer, of, pair, writes=processes.first)
        processes.agree({"the number of epochs in the checkpoint": len(run.history)})
        processes.agree({"the step in the checkpoint": run.position.step if run.position else 0})
        result = Fit(pair, run.history)
        show = progress if processes.first else False
        told = Events(tensorboard if processes.first else None, run.history)
        with Progress(epochs, passes.steps, len(rows.train), run.history, show) as bar, told:
            for epoch in range(len(run.history), epochs):
                if patience is not None and epoch - run.best_epoch >= patience and run.history:
                    result.stopped = "held-out bound"
                    break
                with run.whole(epoch) as before:
                    start = run.position
                    began = time.perf_counter() - (start.seconds if start else 0.0)
                    try:
                        means, done = passes.train(epoch, bar.advance, update, start, run.pause)
                        found = _record(means, update.names, objective, done)
                        if not math.isfinite(found["bound"]):
                            raise NotFinite(f"the bound became {found['bound']}")
                        if not torch.stack(
                            [p.isfinite().all() for p in parameters]
                        ).all():  # the next bound would show it
                            raise NotFinite("a parameter became infinite or NaN")
                    except (NotFinite, torch.linalg.LinAlgError) as error:
                        seen = str(error) if isinstance(error, NotFinite) else "a covariance became singular"
                        again = partial(replace(passes, processes=ALONE).train, epoch, lambda: None, start=start)
                        order = partial(passes.order, start)
                        where = first_not_finite(before, update, pair, objective, order, again)  # each on all rows
                        raise not_finite(f"{seen} in epoch {epoch + 1}", where, rows) from error
                    record = {"epoch": epoch + 1, **found}
                    if len(rows.aside):
                        record["held_out"] = passes.held_out(objective, pair, seed)
                    record |= {
                        "seconds": time.perf_counter() - began,
                        "learning_rate": float(update.rate),
                        "analytic_kl": analytic,
                    }
                    record = processes.agreed(record)
                    run.add(record)
                    bar.report(record)
                    told.add(record)
            run.finish()
        if patience is not None:
            run.restore_best()
    result.step = update.how
    return result


def _record(means: list[float], names: tuple[str, ...], objective: Callable, done: Tensor) -> dict[str, Any]:
    """An epoch's means by name, and what a schedule stood at in its last step."""
    terms = dict(zip(names, means[1:], strict=True))
    record: dict[str, Any] = {"bound": means[0]}
    if terms:
        record |= {"likelihood": terms.pop("likelihood"), "kl": terms}
    return record | (objective.in_force(done) if hasattr(objective, "in_force") else {})


def _analytic(objective: Callable, pair: Pair, rows: Rows) -> tuple[str, ...]:
    terms = getattr(objective, "terms", None)
    return terms(pair, rows.table.rows(rows.train[:2])).analytic if terms else ()


def _fingerprint(pair: Pair, objective: Any, rows: Rows, options: dict[str, Any]) -> dict[str, Any]:
    """What must agree for a checkpoint to be gone on with."""
    kept = ("epochs", "batch_size", "learning_rate", "seed", "schedule", "clip", "held_out", "precision")
    return {
        "pair": str(pair._built),
        "objective": _named(objective),
        "rows": len(rows.table),
        "data": rows.sums(),
        **{key: options[key] for key in kept},
    }


def _named(objective: Any) -> str:
    """An objective with its options; what has no words of its own goes by its name, not by where it lies in memory."""
    named = getattr(objective, "__qualname__", type(objective).__qualname__)
    return named if " at 0x" in repr(objective) else repr(objective)
