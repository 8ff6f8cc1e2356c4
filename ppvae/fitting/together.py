"""What several processes cannot fit as one process would, found on a few rows before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.fitting.parts import Part
from ppvae.fitting.processes import Processes
from ppvae.fitting.update import Update
from ppvae.pair import Pair

# Of what a few rows give, together and apart: a number that many rows share would be off by half of itself.
ROUNDING = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
}  # of a bound, and of a gradient's largest entry beside all others'
GRADIENT = {torch.float64: 1e-7, torch.float32: 1e-3}  # of a gradient, whose terms cancel


def refuse_unshared(
    pair: Pair,
    objective: Callable,
    model: nn.Module,
    parameters: list[nn.Parameter],
    table: Table,
    processes: Processes,
) -> None:
    """Refuse what would not be the fit of one process: each process steps on all of these rows by itself, and on its own
    rows with the others; bound, gradients, buffers and generators must then agree.

    Args:
        pair: left as it is, gradients aside.
        objective: as in `ppvae.fit`.
        model: all modules that are fitted.
        parameters: theirs.
        table: a few rows.
        processes: all processes; the call is theirs together.

    Raises:
        Problem: rows that are coupled, draws that cannot be shared.
    """
    if processes.alone:
        return
    _refuse_coupled(objective, model, processes)
    update = Update(pair, objective, parameters, compile="off", processes=processes)
    share, done = processes.share(len(table)), torch.ones((), dtype=torch.float64, device=parameters[0].device)
    own = table.rows(share.rows)
    part = Part(own.values, own.masks, own.total, share)
    model.train()
    whole = _after(lambda: update.step(table, done), model)
    spread = _after(lambda: update.together(part, done)[0], model)
    model.eval()
    wrong = next(filter(None, processes.gathered(_differs(whole, spread))), None)
    if wrong is not None:
        raise Problem(
            f"{wrong} is not the same in {processes.size} processes as in one",
            "the objective or a network couples the rows of a batch, or draws random numbers in a way of its own",
            "one process; or a bound that is a mean over rows, and noise that is a site of the story or the guide",
        )


def _refuse_coupled(objective: Callable, model: nn.Module, processes: Processes) -> None:
    if getattr(objective, "coupled", False):
        raise Problem(
            f"{objective!r} couples the rows of a batch, which is spread over {processes.size} processes",
            "a row's number depends on rows that other processes have, as the floor of free bits on the batch's mean KL",
            "one process; or a bound that is a mean over rows: ppvae.elbo(kl=ppvae.annealed())",
        )
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if norms:
        raise Problem(
            f"{norms[0].removeprefix('0.')!r} normalises over a batch that is spread over {processes.size} processes",
            "BatchNorm takes its moments from the rows that it sees, and these are a part; SyncBatchNorm is not supported",
            "LayerNorm or GroupNorm, which normalise each row; or one process",
        )


@dataclass(frozen=True)
class _After:
    """What a step leaves, each by name."""

    bound: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    random: dict[str, Tensor]  # the next number of each generator


def _after(step: Callable[[], Tensor], model: nn.Module) -> _After:
    """Step, and put everything but the gradients back."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept = [buffer.clone() for buffer in model.buffers()]
    devices = {p.device for p in parameters.values() if p.is_cuda}
    with torch.random.fork_rng(devices):
        bound = step()
        random = {str(device): torch.rand(1, device=device) for device in (torch.device("cpu"), *devices)}
    gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)
    return _After(bound, gradients, buffers, random)


def _differs(whole: _After, spread: _After) -> str | None:
    """The first thing that two steps left otherwise, beyond rounding."""
    if not _close(whole.bound, spread.bound, ROUNDING):
        return "the bound"
    largest = max(float(gradient.abs().max()) for gradient in whole.gradients.values())
    for name, gradient in whole.gradients.items():
        if not _close(gradient, spread.gradients[name], GRADIENT, ROUNDING.get(gradient.dtype, 0.0) * largest):
            return f"the gradient of {name.partition('.')[2]!r}"
    for name, buffer in whole.buffers.items():
        if not _close(buffer, spread.buffers[name], GRADIENT):
            return f"the buffer {name.partition('.')[2]!r}"
    same = all(torch.equal(number, spread.random[device]) for device, number in whole.random.items())
    return None if same else "how far the generator of random numbers went"


def _close(a: Tensor, b: Tensor, rounding: dict[torch.dtype, float], more: float = 0.0) -> bool:
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return False
    return bool(((a - b).abs() <= rounding.get(a.dtype, 0.0) * a.abs().max() + more).all())
