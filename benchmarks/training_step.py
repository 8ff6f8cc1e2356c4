"""One training step of a 784-400-20 VAE, side by side in one run: hand-written PyTorch, this library, stock Pyro.

    python benchmarks/training_step.py [--json FILE]

Variants are interleaved in random order; medians and 20th percentiles of the time of a step, and the median of the
ratio to the hand-written step of the same round (forward, backward, fused Adam).
"""

import argparse
import json
import platform
import random
import statistics
import time
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

import ppvae
from ppvae.door import enter
from ppvae.staging.step import Step

ROUNDS = 40


def by_hand(x):
    """The step as one would write it without a library: analytic KL, one fused optimizer."""
    encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step():
        loc, spread = encoder(x).chunk(2, -1)
        scale = softplus(spread) + 1e-3
        z = loc + scale * torch.randn_like(scale)
        kl = 0.5 * (loc.square() + scale.square() - 1).sum(-1) - scale.log().sum(-1)
        likelihood = -binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
        loss = (kl - likelihood).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours(x, objective, staged):
    pair = ppvae.make("vae", 784, 20, hidden=(400,))
    parameters = list(pair.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    table, run = enter(pair, x), Step(pair, objective, parameters, staged)

    def step():
        run(table)
        optimizer.step()

    return step


def stock(x):
    pyro.clear_param_store()
    pair = ppvae.make("vae", 784, 20, hidden=(400,))
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return lambda: svi.step(x)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--json", type=Path)
    path = arguments.parse_args().json
    torch.manual_seed(0)
    results = []
    for rows in (128, 512):
        x = torch.bernoulli(torch.full((rows, 784), 0.3))
        steps = {
            "by hand": by_hand(x),
            "ppvae, staged": ours(x, ppvae.elbo(), True),
            "ppvae, eager": ours(x, ppvae.elbo(), False),
            "ppvae, staged, iw_elbo(5)": ours(x, ppvae.iw_elbo(5), True),
            "stock Pyro SVI": stock(x),
        }
        times = {name: [] for name in steps}
        for round in range(-3, ROUNDS):
            for name in random.sample(list(steps), len(steps)):
                began = time.perf_counter()
                steps[name]()
                if round >= 0:
                    times[name].append(1e3 * (time.perf_counter() - began))
        for name, taken in times.items():
            ratio = statistics.median(a / b for a, b in zip(taken, times["by hand"], strict=True))
            results.append(
                {
                    "rows": rows,
                    "step": name,
                    "ms_median": round_(statistics.median(taken)),
                    "ms_p20": round_(statistics.quantiles(taken, n=5)[0]),
                    "ratio": round_(ratio),
                }
            )
            print("{rows:5d}  {step:28s} {ms_median:8.2f} ms (p20 {ms_p20:7.2f})  x{ratio:.2f}".format(**results[-1]))
    if path:
        machine = {"processor": platform.processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        path.write_text(json.dumps({"machine": machine, "rounds": ROUNDS, "results": results}, indent=2) + "\n")


def round_(value):
    return round(value, 3)


if __name__ == "__main__":
    main()
