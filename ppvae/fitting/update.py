"""One update of the parameters: a step, clipping, and Adam, with everything that changes between updates a tensor."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppvae.door import Table
from ppvae.fitting.parts import Own, Part
from ppvae.fitting.processes import ALONE, Processes
from ppvae.pair import Pair
from ppvae.staging.captured import Captured
from ppvae.staging.step import Step
from ppvae.tracing.whole import Share

log = logging.getLogger("ppvae")


class Update:
    """Raise the mean bound of a batch by one step of Adam.

    On a GPU the whole of it, optimizer included, is recorded as a CUDA graph once a batch of its shape has been staged and
    compared with the eager step.

    Of several processes each steps on its part of the batch; the sums of their gradients, weighed by rows, are those of the
    whole batch, and all update alike. Nothing is recorded then.

    Args:
        pair: the pair.
        objective: as in `ppvae.fit`.
        parameters: those that are fitted.
        learning_rate: Adam's, at the start.
        schedule: "cosine" or "constant".
        clip: the largest norm of the gradient of all parameters together.
        compile: "auto", "inductor" or "off".
        processes: those that update together.

    Attributes:
        step: bound and gradients of a whole batch.
        parts: the same of a part, by the share that it has.
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
        processes: Processes = ALONE,
    ) -> None:
        self.parameters, self.learning_rate, self.schedule, self.clip = parameters, learning_rate, schedule, clip
        self.pair, self.objective, self.compile, self.processes = pair, objective, compile, processes
        self.step = self._step(objective)
        self.parts: dict[Share, Step] = {}
        home = parameters[0].device
        rate = torch.tensor(learning_rate, device=home, dtype=torch.float32 if home.type == "cuda" else torch.float64)
        self.optimizer = torch.optim.Adam(parameters, lr=rate, fused=True, capturable=home.type == "cuda")
        self.captured: dict[tuple, Captured] = {}
        self.uncaptured = ("" if processes.alone else "several processes") if home.type == "cuda" else "no GPU"

    @property
    def rate(self) -> Tensor:
        """Adam's learning rate, 0-dim."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def how(self) -> str:
        """How an update runs: "staged", "staged, CUDA graph", "staged, inductor", or "eager" with the reason; and in how
        many processes."""
        step = min(self.parts.values(), key=lambda step: step.staged, default=self.step)
        how = step.how if self.processes.alone else f"{step.how}, {self.processes.size} processes"
        if self.captured:
            return f"{how}, CUDA graph"
        return f"{how}, no CUDA graph: {self.uncaptured}" if self._reason() else how

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objective's terms."""
        return next((step.names for step in (self.step, *self.parts.values()) if step.names), ())

    def __call__(self, batch: Table, done: Tensor) -> Tensor:
        """Update on a batch, or on this process's part of one, with a share ``done`` of the training behind (0-dim, on
        the batch's device).

        Returns:
            The batch's bound and the objective's terms before the update, on the device.
        """
        if isinstance(batch, Part):
            return self._move(self.together(batch, done), done)
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
        bound = step(batch, done)
        return self._move(torch.stack([bound, *self.step.terms.values()]), done)

    def together(self, part: Part, done: Tensor) -> Tensor:
        """Put the gradients of the whole batch into the parameters, by steps of all processes on their parts of it.

        Returns:
            The batch's bound and the objective's terms.
        """
        numbers = self._of_part(part, done)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        pieces = [*(gradient.flatten() for gradient in gradients), numbers]
        total = self.processes.add(torch.cat(pieces).mul_(part.share.weight))
        *sums, numbers = total.split([piece.numel() for piece in pieces])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))
        return numbers

    def _of_part(self, part: Part, done: Tensor) -> Tensor:
        if part.share not in self.parts:
            self.parts[part.share] = self._step(Own(self.objective, part.share, self.processes))
        step = self.parts[part.share]
        try:
            bound = step(part, done)
        except torch.linalg.LinAlgError:
            if hasattr(self.objective, "evaluate") and not self.names:
                raise
            return self._nothing()
        return torch.stack([bound, *step.terms.values()])

    def _nothing(self) -> Tensor:
        """NaN for all numbers and gradients of this process's rows: so all processes learn of it, and none waits."""
        for parameter in self.parameters:
            parameter.grad = torch.full_like(parameter, torch.nan)
        return self.parameters[0].new_full((1 + len(self.names),), torch.nan)

    def _move(self, numbers: Tensor, done: Tensor) -> Tensor:
        """One step of Adam along the gradients that the parameters hold."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        rate = self.learning_rate * (0.5 * (1 + torch.cos(math.pi * done)) if self.schedule == "cosine" else 1.0)
        self.rate.fill_(rate)
        self.optimizer.step()
        return numbers

    def _step(self, objective: Callable) -> Step:
        return Step(self.pair, objective, self.parameters, self.compile != "off", self.compile == "inductor")

    def _reason(self) -> bool:
        return self.uncaptured not in ("", "no GPU")

    def _of(self, batch: Table) -> Callable[..., list[Tensor]]:
        def update(*tensors: Tensor) -> list[Tensor]:
            values = dict(zip(batch.values, tensors, strict=False))
            masks = dict(zip(batch.masks, tensors[len(values) : -1], strict=True))
            return [self.apply(Table(values, masks, batch.total), tensors[-1], self.step.run)]

        return update
