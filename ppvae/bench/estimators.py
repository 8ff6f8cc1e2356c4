"""Gradient estimators side by side: their noise, their signal-to-noise, and what a step of each costs.

1. A guide over 8 classes: the variance of one gradient, summed over the guide's parameters, of enumeration, score, VIMCO
   and wake-sleep, with P particles.
2. z ~ N(0, 1), x | z ~ N(z, 0.8²) and a wrong Gaussian guide: |mean| / standard deviation of the gradient of the guide's
   location, from as many rows as there are independent estimates (Rainforth et al. 2018; Tucker et al. 2019).
3. A staged step of a 784-200-20 VAE at batch 64: its time beside the pathwise step of the same bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppvae
from ppvae.bench.harness import Variant
from ppvae.bench.ours import Ours, bits
from ppvae.bench.run import Bench, Record
from ppvae.objectives import elbo, iw_elbo, renyi, wake_sleep

SECONDS = 25
ROWS, ROUNDS = 20_000, 30
PATHWISE = "pathwise"
COSTS: dict[str, dict[str, Any]] = {
    "elbo, 1 particle": {PATHWISE: elbo(), "stl": elbo(1, "stl")},
    "elbo, 5 particles": {PATHWISE: elbo(5), "score": elbo(5, "score")},
    "iw_elbo, 5 particles": {
        PATHWISE: iw_elbo(5),
        "stl": iw_elbo(5, "stl"),
        "dreg": iw_elbo(5, "dreg"),
        "renyi(0.5), dreg": renyi(0.5, 5, "dreg"),
        "vimco": iw_elbo(5, "vimco"),
        "wake_sleep": wake_sleep(5),
    },
}


def case(bench: Bench, rows: int = ROWS, features: int = 784, hidden: int = 200) -> Iterator[list[Record]]:
    """The laws on ``rows`` independent estimates, on the CPU; the costs where torch works."""
    bench.say("variance")
    yield noise(rows)
    bench.say("signal to noise")
    yield signals(rows)
    x = bits(bench, 64, features)

    def vae() -> ppvae.Pair:
        return ppvae.make("vae", features, 20, hidden=(hidden,)).to(bench.device)

    for bound, objectives in COSTS.items():
        variants = {
            name: Variant(lambda objective=objective: Ours(vae(), x, objective))
            for name, objective in objectives.items()
        }
        yield bench.compare(f"a step, {bound}", variants, PATHWISE, ROUNDS)


def noise(rows: int) -> list[Record]:
    """The variance of one gradient, by estimator."""
    found = {"elbo enumerated": gradients(classes(rows, enumerate=True), elbo(), 2.0)}
    for P in (2, 5, 20):
        found[f"elbo score P={P}"] = gradients(classes(rows), elbo(P, "score"), 2.0)
    for P in (2, 5, 20):
        found[f"iw_elbo vimco P={P}"] = gradients(classes(rows), iw_elbo(P, "vimco"), 2.0)
        found[f"wake_sleep P={P}"] = gradients(classes(rows), wake_sleep(P), 2.0)
    return [Record("variance of one gradient", name, {"variance": float(g.var(0).sum())}) for name, g in found.items()]


def signals(rows: int) -> list[Record]:
    """Signal-to-noise ratios, by gradient and particles."""
    found = []
    for gradient in (PATHWISE, "stl", "dreg"):
        ratios: dict[str, float | None] = {}
        for P in (1, 4, 16, 64, 256):
            g = gradients(gaussian(rows), iw_elbo(P, gradient), 1.5).flatten()
            ratios[f"P={P}"] = float(g.mean().abs() / g.std())
        found.append(Record("signal to noise", gradient, ratios))
    return found


class Locations(nn.Module):
    """A parameter of its own for each row: one backward pass gives as many independent gradients as there are rows."""

    def __init__(self, value: Tensor, rows: int) -> None:
        super().__init__()
        self.value = nn.Parameter(value.expand(rows, *value.shape).clone())


def classes(rows: int, enumerate: bool = False) -> ppvae.Pair:
    """y ~ Categorical of 8 classes,  x | y ~ N(y, 1);  a guide that has its logits row by row."""
    prior = torch.zeros(8)

    def model(x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            y = pyro.sample("y", dist.Categorical(logits=prior))
            with pyro.plate("features", 1, dim=-1):
                return pyro.sample("x", dist.Normal(y.to(prior.dtype), 1.0), obs=x)

    def guide(rows: Locations, x: Tensor, mask: Tensor | bool = True) -> None:
        with pyro.plate("data", len(x), dim=-2):
            infer = {"enumerate": "parallel"} if enumerate else {}
            pyro.sample("y", dist.Categorical(logits=rows.value.unsqueeze(1)), infer=infer)

    return ppvae.Pair(model, guide, rows=Locations(torch.linspace(-1, 1, 8), rows))


def gaussian(rows: int) -> ppvae.Pair:
    """z ~ N(0, 1),  x | z ~ N(z, 0.8²);  a guide N(0.4, 0.8²) whose location is a parameter row by row."""

    def model(x: Tensor | None = None, mask: Tensor | bool = True, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 1), 1.0).to_event(1)).squeeze(-1)
            with pyro.plate("features", 1, dim=-1):
                return pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(rows: Locations, x: Tensor, mask: Tensor | bool = True) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(rows.value, 0.8).to_event(1))

    return ppvae.Pair(model, guide, rows=Locations(torch.full((1, 1), 0.4), rows))


def gradients(pair: ppvae.Pair, objective: Callable[..., Tensor], x: float) -> Tensor:
    """One gradient of the guide's parameters for each row, (rows, parameters)."""
    value = pair.rows.value
    bound = objective(pair, torch.full((len(value), 1), x))
    return torch.autograd.grad(bound.sum(), value)[0].reshape(len(value), -1)
