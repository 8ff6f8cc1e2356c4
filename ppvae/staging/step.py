"""One training step: the mean bound of a batch and its gradients.

Run eagerly, half of a small pair's step is Pyro: messages, traces, distribution objects. All of it is a function of
shapes only, so `Step` runs it once under `make_fx`, which leaves a flat graph of tensor operations for bound *and*
gradients, and then runs that graph. The graph takes parameters, buffers and the batch; it consumes the same random
numbers, so it gives the eager step's numbers bit for bit. That is checked on the second, fourth, eighth, … batch of a shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppvae.door import Table
from ppvae.pair import Pair

log = logging.getLogger("ppvae")


class Step:
    """Compute a batch's mean bound, and put the gradients of its negative into the parameters.

    Args:
        pair: the pair.
        objective: called ``objective(pair, table)``, or with ``done=done`` where it is scheduled.
        parameters: those that get gradients, the pair's and then the objective's own.
        staged: stage where that is exact.

    Attributes:
        how: "staged", or "eager" with the reason.
        terms: the batch's mean likelihood and KL by site, where the objective has them; on the device.
    """

    def __init__(self, pair: Pair, objective: Callable, parameters: list[nn.Parameter], staged: bool) -> None:
        self.call, self.parameters = _Call(pair, objective), parameters
        self.graphs: dict[tuple, Callable] = {}
        self.calls: dict[tuple, int] = {}
        self.terms: dict[str, Tensor] = {}
        self.how = "staged" if staged else "eager: compile='off'"

    def __call__(self, batch: Table, done: Tensor | None = None) -> Tensor:
        """Step on a batch, with a share ``done`` of the training behind (0-dim; None: all of it)."""
        if done is None:
            done = torch.ones((), dtype=torch.float64, device=next(iter(batch.values.values())).device)
        with pyro.validation_enabled(False):  # `check` ran with it on; in a step it costs a fifth, and host syncs
            numbers, gradients = self._staged(batch, done) if self.how == "staged" else self._eager(batch, done)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        bound, *terms = numbers
        self.terms = dict(zip(self.call.names, terms, strict=True))
        return bound

    def _eager(self, batch: Table, done: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        numbers = self.call(batch, done)
        return [n.detach() for n in numbers], _gradients(numbers[0], self.parameters)

    def _staged(self, batch: Table, done: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        tensors = [*batch.values.values(), *batch.masks.values(), done]
        key = tuple((tuple(t.shape), t.dtype) for t in tensors)
        self.calls[key] = calls = self.calls.get(key, 0) + 1
        if key not in self.graphs:
            try:
                self.graphs[key] = self._stage(batch, tensors)
            except Exception as error:  # whatever cannot be traced says so in its own way
                self._fall_back(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                return self._eager(batch, done)
        elif calls & (calls - 1) == 0:  # what begins to change late shows too
            return self._compare(key, batch, tensors)
        return self._run(key, tensors)

    def _run(self, key: tuple, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            found = self.graphs[key](*self.parameters, *self.call.buffers(), *tensors)
        return found[: -len(self.parameters)], found[-len(self.parameters) :]

    def _stage(self, batch: Table, tensors: list[Tensor]) -> Callable:
        names = [name for name, p in self.call.named_parameters() if p.requires_grad]
        buffers = [name for name, _ in self.call.named_buffers()]

        def flat(*inputs: Tensor) -> list[Tensor]:
            parameters, rest = inputs[: len(names)], inputs[len(names) :]
            state, rest = dict(zip(buffers, rest, strict=False)), rest[len(buffers) :]
            *rest, done = rest
            table = Table(
                dict(zip(batch.values, rest, strict=False)),
                dict(zip(batch.masks, rest[len(batch.values) :], strict=True)),
                batch.total,
            )
            leaves = [p.detach().requires_grad_() for p in parameters]
            swapped = {**dict(zip(names, leaves, strict=True)), **state}
            numbers = torch.func.functional_call(self.call, swapped, (table, done))
            return [*(n.detach() for n in numbers), *_gradients(numbers[0], leaves)]

        kept = [b.clone() for b in self.call.buffers()]
        devices = {t.device for t in tensors if t.is_cuda}
        with torch.random.fork_rng(devices):  # staging consumes no random numbers
            graph = make_fx(flat)(*(p.detach() for p in self.parameters), *self.call.buffers(), *tensors)
        for buffer, value in zip(self.call.buffers(), kept, strict=True):
            buffer.copy_(value)
        return graph

    def _compare(self, key: tuple, batch: Table, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Step eagerly and staged with the same random numbers: a number frozen in the graph shows here."""
        devices = {t.device for t in tensors if t.is_cuda}
        kept = [b.clone() for b in self.call.buffers()]
        with torch.random.fork_rng(devices):
            staged = self._run(key, tensors)
        for buffer, value in zip(self.call.buffers(), kept, strict=True):
            buffer.copy_(value)
        eager = self._eager(batch, tensors[-1])
        if not all(map(torch.equal, [*staged[0], *staged[1]], [*eager[0], *eager[1]])):
            self._fall_back(
                "the staged step differs from the eager one: something that changes between steps is not a tensor"
            )
        return eager

    def _fall_back(self, reason: str) -> None:
        self.how = f"eager: {reason}"
        log.info("the step is not staged: %s", reason)


class _Call(nn.Module):
    """Pair and objective as one module, whose parameters `functional_call` can swap: a batch's mean bound and terms.

    Attributes:
        names: of the terms: "likelihood", and the sites that have a KL.
    """

    def __init__(self, pair: Pair, objective: Callable) -> None:
        super().__init__()
        self.pair, self.objective = pair, objective
        self.scheduled = getattr(objective, "scheduled", False)
        self.names: tuple[str, ...] = ()

    def forward(self, table: Table, done: Tensor) -> list[Tensor]:
        if not hasattr(self.objective, "evaluate"):
            when = {"done": done} if self.scheduled else {}
            return [self.objective(self.pair, table, **when).mean()]
        bound, terms = self.objective.evaluate(self.pair, table, done)
        self.names = ("likelihood", *terms.kl)
        return [bound.mean(), terms.likelihood.mean(), *(kl.mean() for kl in terms.kl.values())]


def _gradients(bound: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Of the negative bound: losses go down. 0 for a parameter that this batch does not reach."""
    found = torch.autograd.grad(-bound, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
