"""Complete a table of 100,000 x 50 with 1,000,000 holes by a fitted factor analysis of 10 factors, float64.

One batched pass, `ppvae.exact.impute_mean`, beside a loop in NumPy that solves each row's K x K system; the loop is timed
on 2,000 rows and multiplied. The largest difference between their answers on those rows is given.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ppvae import exact
from ppvae.bench.harness import Variant
from ppvae.bench.run import Bench, Record

SECONDS = 15
BATCHED, LOOPED = "ppvae.exact.impute_mean", "row by row in NumPy"


def case(
    bench: Bench, rows: int = 100_000, looped: int = 2000, features: int = 50, latents: int = 10
) -> Iterator[list[Record]]:
    """Time both, the batched pass as the reference; a fifth of the entries is missing."""
    draw = torch.Generator().manual_seed(bench.seed)
    W = torch.randn(features, latents, generator=draw, dtype=torch.double)
    loc, scale = torch.randn(features, generator=draw, dtype=torch.double), torch.full((features,), 0.5).double()
    z = torch.randn(rows, latents, generator=draw, dtype=torch.double)
    x = z @ W.T + loc + scale * torch.randn(rows, features, generator=draw, dtype=torch.double)
    mask = torch.ones(x.numel(), dtype=torch.bool)
    mask[torch.randperm(x.numel(), generator=draw)[: x.numel() // 5]] = False
    mask = mask.reshape(x.shape)
    arrays = [value.numpy() for value in (W, loc, scale, x[:looped], mask[:looped])]
    tensors = [value.to(bench.device) for value in (W, loc, scale, x, mask)]
    variants = {
        BATCHED: Variant(lambda: lambda: exact.impute_mean(*tensors)),
        LOOPED: Variant(lambda: lambda: row_by_row(*arrays), looped / rows, peak=lambda: None),
    }
    setting = f"{rows} rows, {int((~mask).sum())} holes; row by row measured on {looped} rows"
    found = bench.compare(setting, variants, BATCHED, 5)
    completed = exact.impute_mean(*tensors)[:looped].cpu()
    difference = float((completed - torch.as_tensor(row_by_row(*arrays))).abs().max())
    yield [Record(setting, name, figures | {"largest_difference": difference}) for _, name, figures in found]


def row_by_row(W: np.ndarray, loc: np.ndarray, scale: np.ndarray, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """E[x_m | x_o] of each row by its own solve, (N, D)."""
    completed = x.copy()
    for n in range(len(x)):
        o = mask[n]
        A = W[o] / scale[o, None] ** 2
        mean = np.linalg.solve(np.eye(W.shape[1]) + A.T @ W[o], A.T @ (x[n, o] - loc[o]))
        completed[n, ~o] = W[~o] @ mean + loc[~o]
    return completed
