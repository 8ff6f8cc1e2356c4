"""The step of stock Pyro: a model and a guide as its tutorial writes them, `SVI`, Pyro's own Adam."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pyro
import pyro.distributions as dist
from pyro.infer import SVI
from pyro.infer.elbo import ELBO
from torch import Tensor

from ppvae.bench.by_hand import RATE, VAE, gaussian

_serial = itertools.count()


def step(vae: VAE, x: Tensor, bound: ELBO, validate: bool = True) -> Callable[[], float]:
    """One step of ``bound`` on x (N, D), with the networks of ``vae``.

    Args:
        vae: its networks; they stand in Pyro's parameter store afterwards, under names of their own.
        x: the batch.
        bound: Pyro's ``Trace_ELBO()`` and its like.
        validate: with Pyro's validation, as it comes; without, as its documentation advises for a model that works.
    """
    serial, latents = next(_serial), next(vae.decoder.parameters()).shape[1]

    def model(x: Tensor) -> None:
        pyro.module(f"bench{serial}.decoder", vae.decoder)
        with pyro.plate("data", len(x)):
            loc = x.new_zeros(len(x), latents)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=vae.decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(f"bench{serial}.encoder", vae.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*gaussian(vae.encoder(x))).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), bound)

    def run() -> float:
        with pyro.validation_enabled(validate):
            return svi.step(x)

    return run
