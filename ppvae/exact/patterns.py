"""Rows that observe the same entries share one factorisation."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLE = 128  # rows in a row, and rows apart, that are looked at before all are
ROWS = 512  # at a time


def by_row(mask: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """Give the two patterns of a mask (N, 1), nothing and everything, (2, D), and which each row has, (N,).

    Reads no values: this can be staged.
    """
    pattern = torch.arange(2, device=mask.device).unsqueeze(-1) > 0
    return pattern.expand(2, features), mask.squeeze(-1).long()


def repeated(mask: Tensor, most: int) -> tuple[Tensor, Tensor] | None:
    """Give the patterns (G, D) of a mask (N, D) and which each row has, (N,); None where they are not worth it.

    They are worth it where half as many patterns as rows, or fewer, are found, and at most `most`. Of a mask whose sample
    of rows holds no pattern twice, no more is read. Reads values: not to be staged.
    """
    N, D = mask.shape
    keys = _keys(torch.cat([mask[:SAMPLE], mask[SAMPLE :: max(1, N // SAMPLE)]]))
    if len(torch.unique(keys)) == len(keys):
        return None
    keys = torch.cat([_keys(rows) for rows in mask.split(ROWS)])
    found, which = torch.unique(keys, return_inverse=True)
    if len(found) > min(most, N // 2):
        return None
    example = which.new_empty(len(found)).scatter_(0, which, torch.arange(N, device=mask.device))
    patterns = mask[example]
    same = all(
        torch.equal(rows, patterns[numbers]) for rows, numbers in zip(mask.split(ROWS), which.split(ROWS), strict=True)
    )
    return (patterns, which) if same else None  # two patterns of one key: 1 in 10^6 of 10^3 patterns


def _keys(mask: Tensor) -> Tensor:
    """Give equal rows equal numbers (N,), and others others, but for chance: sums of random whole numbers, which float64
    holds exactly in any order."""
    D = mask.shape[1]
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randint(2**53 // max(D, 1), (D,), generator=draw).to(mask.device, torch.float64)
    return mask.to(torch.float64) @ numbers
