"""Layers that work on any leading dims."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppvae.errors import Problem


def mlp(inputs: int, hidden: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A fully connected network from ``inputs`` to ``hidden[-1]`` features, an activation after each layer.

    Args:
        inputs: features of the input.
        hidden: widths of the layers; empty: the identity.
        activation: a module class.
    """
    if isinstance(hidden, int) or not all(isinstance(width, int) and width > 0 for width in hidden):
        raise Problem(
            f"hidden is {hidden!r}",
            "layer widths are whole numbers, in a tuple",
            "hidden=(400, 200); one layer: (400,)",
        )
    sizes = itertools.pairwise([inputs, *hidden])
    return nn.Sequential(*(layer for n, m in sizes for layer in (nn.Linear(n, m), activation())))


def together(*parts: Tensor) -> Tensor:
    """Features side by side, (…, N, H1), (…, N, H2), … to (…, N, H1 + H2 + …). Leading dims broadcast, so that a class that
    holds every value along a dim of its own, when it is enumerated, meets each draw of what stands beside it."""
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)


class rows(nn.Module):  # noqa: N801  (reads as a verb)
    """Let a module that wants exactly one batch dim see any leading dims.

    Convolutions refuse extra dims; BatchNorm takes particles for rows, or the rows for channels where the numbers
    happen to agree, in silence.

    Args:
        module: takes (B, \\*event).
        event_dim: the dims of one input.
    """

    def __init__(self, module: nn.Module, event_dim: int = 1) -> None:
        super().__init__()
        self.module, self.event_dim = module, event_dim

    def forward(self, value: Tensor) -> Tensor:
        lead = value.shape[: value.dim() - self.event_dim]
        out = self.module(value.reshape(-1, *value.shape[len(lead) :]))
        return out.reshape(*lead, *out.shape[1:])
