"""How much memory a block may take."""

from __future__ import annotations

import torch

from ppvae.machine import free_bytes

BLOCK_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}  # of one temporary, where memory abounds
SHARE = 32  # a block holds several temporaries, and a network's inner layers may be wider than what it gives


def block_bytes(device: torch.device) -> int:
    """The bytes of one temporary of a block: those of `BLOCK_BYTES`, and at most a 32nd of what is free.

    Rounded down to a power of two, so that the same seed gives the same blocks, and the same draws, also where somewhat
    more or less is free.
    """
    most = BLOCK_BYTES["cuda" if device.type == "cuda" else "cpu"]
    free = free_bytes(device)
    return most if free is None else min(most, 2 ** max((free // SHARE).bit_length() - 1, 0))
