"""Gradient estimators side by side: their noise, their signal-to-noise, and what a step of each costs.

    python benchmarks/estimators.py [--json FILE]

1. A guide over C classes: the variance of one gradient, summed over the guide's parameters, of enumeration, score and
   VIMCO, with P particles.
2. z ~ N(0, 1), x | z ~ N(z, 0.8²) and a wrong Gaussian guide: |mean| / standard deviation of the gradient of the guide's
   location, from as many rows as there are independent estimates (Rainforth et al. 2018; Tucker et al. 2019).
3. A staged step of a 784-200-20 VAE at batch 64: the median of the ratio to the pathwise step of the same bound in the
   same round, rounds interleaved.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppvae
from ppvae.door import enter
from ppvae.objectives import elbo, iw_elbo, renyi, wake_sleep
from ppvae.staging.step import Step

ROWS, ROUNDS = 20_000, 30


class Locations(nn.Module):
    """A parameter of its own for each row: one backward pass gives as many independent gradients as there are rows."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.expand(ROWS, *value.shape).clone())


def classes(enumerate: bool) -> ppvae.Pair:
    """y ~ Categorical of 8 classes,  x | y ~ N(y, 1);  a guide that has its logits row by row."""
    prior = torch.zeros(8)

    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Categorical(logits=prior))
            with pyro.plate("features", 1, dim=-1):
                return pyro.sample("x", dist.Normal(y.to(prior.dtype), 1.0), obs=x)

    def guide(rows, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            infer = {"enumerate": "parallel"} if enumerate else {}
            pyro.sample("y", dist.Categorical(logits=rows.value.unsqueeze(1)), infer=infer)

    return ppvae.Pair(model, guide, rows=Locations(torch.linspace(-1, 1, 8)))


def gaussian() -> ppvae.Pair:
    def model(x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1)).squeeze(-1)
            with pyro.plate("features", 1, dim=-1):
                return pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(rows, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(rows.value, 0.8).to_event(1))

    return ppvae.Pair(model, guide, rows=Locations(torch.full((1, 1), 0.4)))


def gradients(pair: ppvae.Pair, objective: object, x: float) -> torch.Tensor:
    """One gradient of the guide's parameters for each row, (ROWS, parameters)."""
    bound = objective(pair, torch.full((ROWS, 1), x))
    return torch.autograd.grad(bound.sum(), pair.rows.value)[0].reshape(ROWS, -1)


def noise() -> dict[str, float]:
    """The variance of one gradient, by estimator."""
    found = {"elbo enumerated": gradients(classes(True), elbo(), 2.0)}
    for P in (2, 5, 20):
        found[f"elbo score P={P}"] = gradients(classes(False), elbo(P, "score"), 2.0)
    for P in (2, 5, 20):
        found[f"iw_elbo vimco P={P}"] = gradients(classes(False), iw_elbo(P, "vimco"), 2.0)
        found[f"wake_sleep P={P}"] = gradients(classes(False), wake_sleep(P), 2.0)
    return {name: float(g.var(0).sum()) for name, g in found.items()}


def signals() -> dict[str, dict[int, float]]:
    """Signal-to-noise ratios, by gradient and particles."""
    table: dict[str, dict[int, float]] = {}
    for gradient in ("pathwise", "stl", "dreg"):
        table[gradient] = {}
        for P in (1, 4, 16, 64, 256):
            g = gradients(gaussian(), iw_elbo(P, gradient), 1.5).flatten()
            table[gradient][P] = float(g.mean().abs() / g.std())
    return table


def costs() -> dict[str, float]:
    """Times of a staged step, as ratios to the pathwise gradient of the same bound."""
    groups = {
        elbo(): [elbo(1, "stl")],
        elbo(5): [elbo(5, "score")],
        iw_elbo(5): [iw_elbo(5, "stl"), iw_elbo(5, "dreg"), renyi(0.5, 5, "dreg"), iw_elbo(5, "vimco"), wake_sleep(5)],
    }
    ratios: dict[str, list[float]] = {}
    x = torch.bernoulli(torch.full((64, 784), 0.3))
    pair = ppvae.make("vae", 784, 20, hidden=(200,))
    ppvae.check(pair, x)
    table, parameters = enter(pair, x), list(pair.parameters())
    objectives = [o for base, others in groups.items() for o in (base, *others)]
    steps = {o: Step(pair, o, parameters, staged=True) for o in objectives}
    for _ in range(3):
        for step in steps.values():
            step(table)
    for _ in range(ROUNDS):
        seconds = {}
        for o in random.sample(objectives, len(objectives)):
            began = time.perf_counter()
            steps[o](table)
            seconds[o] = time.perf_counter() - began
        for base, others in groups.items():
            for o in others:
                ratios.setdefault(f"{o} / {base}", []).append(seconds[o] / seconds[base])
    return {name: statistics.median(r) for name, r in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    file = parser.parse_args().json
    torch.manual_seed(0)
    random.seed(0)
    result = {"variance": noise(), "signal_to_noise": signals(), "cost": costs()}
    for name, value in result["variance"].items():
        print(f"{name:24s} variance {value:9.5f}")
    for name, row in result["signal_to_noise"].items():
        print(f"{name:9s} signal to noise " + "  ".join(f"P={P}: {value:.3f}" for P, value in row.items()))
    for name, value in result["cost"].items():
        print(f"{value:5.2f}  {name}")
    if file:
        file.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
