"""Impute a table of 100,000 x 50 with 1,000,000 holes by a fitted factor analysis: one batched pass beside a loop over rows.

    python benchmarks/imputation.py [--rows N] [--json FILE]

The loop solves each row's K x K system in numpy; it is timed on 2,000 rows and scaled up. Both are timed three times,
interleaved; medians. The largest difference between their answers on those rows is printed.
"""

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from ppvae import exact

FEATURES, LATENTS, LOOPED = 50, 10, 2000


def one_row_at_a_time(W, loc, scale, x, mask):
    completed = x.copy()
    for n in range(len(x)):
        o = mask[n]
        A = W[o] / scale[o, None] ** 2
        mean = np.linalg.solve(np.eye(W.shape[1]) + A.T @ W[o], A.T @ (x[n, o] - loc[o]))
        completed[n, ~o] = W[~o] @ mean + loc[~o]
    return completed


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(FEATURES, LATENTS, generator=draw, dtype=torch.double)
    loc, scale = torch.randn(FEATURES, generator=draw, dtype=torch.double), torch.full((FEATURES,), 0.5).double()
    z = torch.randn(given.rows, LATENTS, generator=draw, dtype=torch.double)
    x = z @ W.T + loc + scale * torch.randn(given.rows, FEATURES, generator=draw, dtype=torch.double)
    mask = torch.ones(given.rows * FEATURES, dtype=torch.bool)
    mask[torch.randperm(mask.numel(), generator=draw)[: mask.numel() // 5]] = False  # a fifth: 1,000,000 of 5,000,000
    mask = mask.reshape(x.shape)
    arrays = [value.numpy() for value in (W, loc, scale, x[:LOOPED], mask[:LOOPED])]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batched, looped = [], []
    for _ in range(3):
        began = time.perf_counter()
        completed = exact.impute_mean(W, loc, scale, x, mask)
        batched.append(time.perf_counter() - began)
        began = time.perf_counter()
        by_hand = one_row_at_a_time(*arrays)
        looped.append((time.perf_counter() - began) * given.rows / LOOPED)
    results = {
        "rows": given.rows,
        "holes": int((~mask).sum()),
        "batched_s": round(statistics.median(batched), 3),
        "row_by_row_s": round(statistics.median(looped), 3),
        "ratio": round(statistics.median(looped) / statistics.median(batched), 1),
        "extra_memory_MiB": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "largest_difference": float((completed[:LOOPED] - torch.as_tensor(by_hand)).abs().max()),
    }
    print("\n".join(f"{name:20} {value}" for name, value in results.items()))
    if given.json:
        machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        given.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
