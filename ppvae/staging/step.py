"""One training step: the mean bound of a batch and its gradients.

Run eagerly, half of a small pair's step is Pyro: messages, traces, distribution objects. All of it is a function of
shapes only, so `Step` stages it (`ppvae.staging.graph`): a flat graph of tensor operations for bound *and* gradients. The
graph takes parameters, buffers and the batch; it consumes the same random numbers, so it gives the eager step's numbers
bit for bit. That is checked on the second, fourth, eighth, … batch of a shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor, nn

from ppvae.door import Table
from ppvae.pair import Pair
from ppvae.staging.arena import Arena
from ppvae.staging.graph import Flat, stage

log = logging.getLogger("ppvae")

# Where operations are fused, or add up in any order, they round differently: the checks then allow so much of the largest
# entry of each result. A number that was frozen is off by far more.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}


class Step:
    """Compute a batch's mean bound, and put the gradients of its negative into the parameters.

    Args:
        pair: the pair.
        objective: called ``objective(pair, table)``, or with ``done=done`` where it is scheduled.
        parameters: those that get gradients, the pair's and then the objective's own.
        staged: stage where that is exact.
        inductor: hand the staged graph to torch.compile.

    Attributes:
        how: "staged", "staged, inductor", or "eager" with the reason.
        terms: the batch's mean likelihood and KL by site, where the objective has them; on the device.
    """

    def __init__(
        self, pair: Pair, objective: Callable, parameters: list[nn.Parameter], staged: bool, inductor: bool = False
    ) -> None:
        self.call, self.parameters, self.inductor = _Call(pair, objective), parameters, inductor
        self.graphs: dict[tuple, Flat] = {}
        self.calls: dict[tuple, int] = {}
        self.arena = Arena()  # one for all shapes: one graph runs at a time
        self.terms: dict[str, Tensor] = {}
        self.how = ("staged, inductor" if inductor else "staged") if staged else "eager: compile='off'"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objective's terms."""
        return self.call.names

    @property
    def staged(self) -> bool:
        return self.how.startswith("staged")

    def __call__(self, batch: Table, done: Tensor | None = None) -> Tensor:
        """Step on a batch, with a share ``done`` of the training behind (0-dim; None: all of it)."""
        if done is None:
            done = torch.ones((), dtype=torch.float64, device=next(iter(batch.values.values())).device)
        with pyro.validation_enabled(False):  # `check` ran with it on; in a step it costs a fifth, and host syncs
            return self._leave(*(self._staged(batch, done) if self.staged else self._eager(batch, done)))

    def run(self, batch: Table, done: Tensor) -> Tensor:
        """The graph of this shape, which is there already: not counted, not compared."""
        return self._leave(*self._run(self.key(batch), [*batch.values.values(), *batch.masks.values(), done]))

    def count(self, batch: Table) -> None:
        """Count a step on a batch of this shape."""
        key = self.key(batch)
        self.calls[key] = self.calls.get(key, 0) + 1

    def _leave(self, numbers: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Put the gradients into the parameters, the terms into ``terms``; the bound."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        bound, *terms = numbers
        self.terms = dict(zip(self.call.names, terms, strict=True))
        return bound

    def key(self, batch: Table) -> tuple:
        """What a graph is good for: shapes and types of a batch, and whether the pair is in training."""
        tensors = [*batch.values.values(), *batch.masks.values()]
        return (self.call.training, *((tuple(t.shape), t.dtype) for t in tensors))

    def due(self, batch: Table) -> bool:
        """Whether the next step on a batch of this shape stages, or compares with the eager step."""
        calls = self.calls.get(self.key(batch), 0) + 1
        return calls & (calls - 1) == 0  # 1, 2, 4, 8, …: what begins to change late shows too

    def _eager(self, batch: Table, done: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        numbers = self.call(batch, done)
        return [n.detach() for n in numbers], _gradients(numbers[0], self.parameters)

    def _staged(self, batch: Table, done: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        tensors, key, due = [*batch.values.values(), *batch.masks.values(), done], self.key(batch), self.due(batch)
        self.count(batch)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._stage(batch, tensors)
            except Exception as error:  # whatever cannot be traced says so in its own way
                self._fall_back(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                return self._eager(batch, done)
        elif due:
            return self._compare(key, batch, tensors)
        return self._run(key, tensors)

    def _run(self, key: tuple, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            found = self.graphs[key](*self.parameters, *self.call.buffers(), *tensors)
        return found[: -len(self.parameters)], found[-len(self.parameters) :]

    def _stage(self, batch: Table, tensors: list[Tensor]) -> Flat:
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
        inputs = [*(p.detach() for p in self.parameters), *self.call.buffers(), *tensors]
        graph = stage(flat, inputs, self.arena, self.inductor)
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
        same = close if self.inductor or devices else torch.equal
        if not all(map(same, [*staged[0], *staged[1]], [*eager[0], *eager[1]])):
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


def _gradients(bound: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of the negative bound: losses go down. 0 for a parameter that this batch does not reach.

    Each has memory of its own, laid out as its parameter's: fused optimizers read it in that order, whatever the strides
    say, and clipping writes to it.
    """
    found = torch.autograd.grad(-bound, parameters, allow_unused=True)
    own, gradients = set(), []
    for p, g in zip(parameters, found, strict=True):
        if g is None:
            g = torch.zeros_like(p)
        elif g.stride() != p.stride() or g.untyped_storage()._cdata in own:
            g = torch.empty_like(p).copy_(g)
        own.add(g.untyped_storage()._cdata)
        gradients.append(g)
    return gradients


def close(a: Tensor, b: Tensor) -> bool:
    """Whether b is a, up to `ROUNDING`."""
    most = ROUNDING.get(b.dtype, 1e-3) * float(b.abs().max()) if b.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=most, equal_nan=True)
