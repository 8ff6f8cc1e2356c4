"""One update of the parameters: a step, clipping, and Adam, with everything that changes between updates a tensor."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppvae.door import Table
from ppvae.pair import Pair
from ppvae.staging.captured import Captured
from ppvae.staging.step import Step

log = logging.getLogger("ppvae")


class Update:
    """Raise the mean bound of a batch by one step of Adam.

    On a GPU the whole of it, optimizer included, is recorded as a CUDA graph once a batch of its shape has been staged and
    compared with the eager step.

    Args:
        pair: the pair.
        objective: as in `ppvae.fit`.
        parameters: those that are fitted.
        learning_rate: Adam's, at the start.
        schedule: "cosine" or "constant".
        clip: the largest norm of the gradient of all parameters together.
        compile: "auto", "inductor" or "off".

    Attributes:
        step: bound and gradients.
        optimizer: Adam; the learning rate is a tensor.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Callable,
        parameters: list[nn.Parameter],
        learning_rate: float = 1e-3,
        schedule: str = "constant",
        clip: float | None = None,
        compile: str = "auto",
    ) -> None:
        self.parameters, self.learning_rate, self.schedule, self.clip = parameters, learning_rate, schedule, clip
        self.step = Step(pair, objective, parameters, compile != "off", compile == "inductor")
        home = parameters[0].device
        rate = torch.tensor(learning_rate, device=home, dtype=torch.float32 if home.type == "cuda" else torch.float64)
        self.optimizer = torch.optim.Adam(parameters, lr=rate, fused=True, capturable=home.type == "cuda")
        self.captured: dict[tuple, Captured] = {}
        self.uncaptured = "" if home.type == "cuda" else "no GPU"

    @property
    def rate(self) -> Tensor:
        """Adam's learning rate, 0-dim."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def how(self) -> str:
        """How an update runs: "staged", "staged, CUDA graph", "staged, inductor", or "eager" with the reason."""
        if self.captured:
            return f"{self.step.how}, CUDA graph"
        return f"{self.step.how}, no CUDA graph: {self.uncaptured}" if self._reason() else self.step.how

    def __call__(self, batch: Table, done: Tensor) -> Tensor:
        """Update on a batch, with a share ``done`` of the training behind (0-dim, on the batch's device).

        Returns:
            The batch's bound and the objective's terms before the update, on the device.
        """
        if self.uncaptured or not self.step.staged or self.step.due(batch):
            return self.apply(batch, done, self.step)
        key, inputs = self.step.key(batch), [*batch.values.values(), *batch.masks.values(), done]
        if key not in self.captured:
            try:
                self.captured[key] = Captured(self._of(batch), inputs)
            except RuntimeError as error:  # an operation that waits for the GPU cannot be recorded
                self.uncaptured = str(error).splitlines()[0]
                log.info("the update is not captured: %s", self.uncaptured)
                return self.apply(batch, done, self.step)
        self.step.count(batch)
        (numbers,) = self.captured[key](*inputs)
        return numbers

    def apply(self, batch: Table, done: Tensor, step: Callable[[Table, Tensor], Tensor]) -> Tensor:
        """Update with the gradients that ``step`` leaves in the parameters."""
        numbers = torch.stack([step(batch, done), *self.step.terms.values()])
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        rate = self.learning_rate * (0.5 * (1 + torch.cos(math.pi * done)) if self.schedule == "cosine" else 1.0)
        self.rate.fill_(rate)
        self.optimizer.step()
        return numbers

    def _reason(self) -> bool:
        return self.uncaptured not in ("", "no GPU")

    def _of(self, batch: Table) -> Callable[..., list[Tensor]]:
        def update(*tensors: Tensor) -> list[Tensor]:
            values = dict(zip(batch.values, tensors, strict=False))
            masks = dict(zip(batch.masks, tensors[len(values) : -1], strict=True))
            return [self.apply(Table(values, masks, batch.total), tensors[-1], self.step.run)]

        return update
