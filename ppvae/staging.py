"""One training step: the mean bound of a batch and its gradients.

Run eagerly, half of a small pair's step is Pyro: messages, traces, distribution objects. All of it is a function of
shapes only, so `Step` runs it once under `make_fx`, which leaves a flat graph of tensor operations for bound *and*
gradients, and then runs that graph. The graph takes parameters, buffers and the batch; it consumes the same random
numbers, so it gives the eager step's numbers bit for bit. That is checked on the batch after the one it was staged on.
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
        objective: called ``objective(pair, table)``.
        parameters: those that get gradients.
        staged: stage where that is exact.

    Attributes:
        how: "staged", or "eager" with the reason.
    """

    def __init__(self, pair: Pair, objective: Callable, parameters: list[nn.Parameter], staged: bool) -> None:
        self.pair, self.objective, self.parameters = pair, objective, parameters
        self.graphs: dict[tuple, Callable] = {}
        self.checked: set[tuple] = set()
        self.how = "staged" if staged else "eager: compile='off'"
        if staged and isinstance(objective, nn.Module):
            self._fall_back("the objective has parameters of its own")

    def __call__(self, batch: Table) -> Tensor:
        with pyro.validation_enabled(False):  # `check` ran with it on; in a step it costs a fifth, and host syncs
            bound, gradients = self._staged(batch) if self.how == "staged" else self._eager(batch)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return bound

    def _eager(self, batch: Table) -> tuple[Tensor, list[Tensor]]:
        return _bound_and_gradients(self.pair, self.objective, self.parameters, batch)

    def _staged(self, batch: Table) -> tuple[Tensor, list[Tensor]]:
        tensors = [*batch.values.values(), *batch.masks.values()]
        key = tuple((tuple(t.shape), t.dtype) for t in tensors)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._stage(batch, tensors)
            except Exception as error:  # whatever cannot be traced says so in its own way
                self._fall_back(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                return self._eager(batch)
        elif key not in self.checked:
            return self._compare(key, batch, tensors)
        return self._run(key, tensors)

    def _run(self, key: tuple, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            bound, *gradients = self.graphs[key](*self.parameters, *self.pair.buffers(), *tensors)
        return bound, gradients

    def _stage(self, batch: Table, tensors: list[Tensor]) -> Callable:
        names = [name for name, p in self.pair.named_parameters() if p.requires_grad]
        buffers = [name for name, _ in self.pair.named_buffers()]

        def flat(*inputs: Tensor) -> list[Tensor]:
            parameters, rest = inputs[: len(names)], inputs[len(names) :]
            state, rest = dict(zip(buffers, rest, strict=False)), rest[len(buffers) :]
            table = Table(
                dict(zip(batch.values, rest, strict=False)),
                dict(zip(batch.masks, rest[len(batch.values) :], strict=True)),
                batch.total,
            )
            leaves = [p.detach().requires_grad_() for p in parameters]
            swapped = {**dict(zip(names, leaves, strict=True)), **state}
            bound = torch.func.functional_call(self.pair, swapped, (self.objective, table)).mean()
            return [bound.detach(), *_gradients(bound, leaves)]

        kept = [b.clone() for b in self.pair.buffers()]
        devices = {t.device for t in tensors if t.is_cuda}
        with torch.random.fork_rng(devices):  # staging consumes no random numbers
            graph = make_fx(flat)(*(p.detach() for p in self.parameters), *self.pair.buffers(), *tensors)
        for buffer, value in zip(self.pair.buffers(), kept, strict=True):
            buffer.copy_(value)
        return graph

    def _compare(self, key: tuple, batch: Table, tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Step eagerly and staged with the same random numbers: a number frozen in the graph shows here."""
        devices = {t.device for t in tensors if t.is_cuda}
        kept = [b.clone() for b in self.pair.buffers()]
        with torch.random.fork_rng(devices):
            bound, gradients = self._run(key, tensors)
        for buffer, value in zip(self.pair.buffers(), kept, strict=True):
            buffer.copy_(value)
        eager = self._eager(batch)
        if torch.equal(bound, eager[0]) and all(map(torch.equal, gradients, eager[1])):
            self.checked.add(key)
        else:
            self._fall_back(
                "the staged step differs from the eager one: something that changes between steps is not a tensor"
            )
        return eager

    def _fall_back(self, reason: str) -> None:
        self.how = f"eager: {reason}"
        log.info("the step is not staged: %s", reason)


def _bound_and_gradients(
    pair: Pair, objective: Callable, parameters: list[nn.Parameter], batch: Table
) -> tuple[Tensor, list[Tensor]]:
    bound = objective(pair, batch).mean()
    return bound.detach(), _gradients(bound, parameters)


def _gradients(bound: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Of the negative bound: losses go down. 0 for a parameter that this batch does not reach."""
    found = torch.autograd.grad(-bound, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
