"""A classifier of several attributes at once, to judge what was imagined: it has seen real images only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ppvae.machine import device_of

BATCH, RATE = 128, 1e-3


class Judge(nn.Module):
    """Three convolutions, a layer of 128 units and one head an attribute: x (N, D) to its logits, (N, C_k) each."""

    def __init__(self, shape: tuple[int, int, int], classes: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.classes = shape, tuple(classes)
        small = [-(-side // 4) for side in shape[1:]]
        self.net = nn.Sequential(
            nn.Conv2d(shape[0], 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * small[0] * small[1], 128),
            nn.ReLU(),
            nn.Linear(128, sum(classes)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net(x.view(-1, *self.shape)).split(self.classes, 1)


def taught(
    judge: Judge | None, rows: dict[str, Tensor], shape: tuple[int, int, int], classes: Sequence[int], share: float
) -> Judge:
    """The judge after one more pass over rows {"x": (N, D), "y": (N, A)}; None begins with one that knows nothing.

    Args:
        share: of the learning rate `RATE`.
    """
    home = device_of("auto")
    judge = Judge(shape, classes).to(home) if judge is None else judge
    judge.train()
    optimizer = torch.optim.Adam(judge.parameters(), RATE * share)
    for index in torch.randperm(len(rows["x"])).split(BATCH):
        x, wanted = rows["x"][index].to(home), rows["y"][index].to(home).long()
        loss: Any = sum(cross_entropy(logits, wanted[:, k]) for k, logits in enumerate(judge(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


@torch.no_grad()
def judged(judge: Judge, x: Tensor) -> Tensor:
    """The attributes that the judge sees in images (…, D), as codes (…, A)."""
    home = next(judge.parameters()).device
    parts = (judge(part.to(home)) for part in x.flatten(0, -2).split(2048))
    codes = torch.cat([torch.stack([logits.argmax(1) for logits in part], 1) for part in parts])
    return codes.view(*x.shape[:-1], -1).cpu()
