"""One step up the importance-weighted bound of 1, 5 and 50 particles: the VAE of ``training``, batch 128.

The reference is written by hand with all particles at once and the encoder run once. Stock Pyro's ``RenyiELBO(alpha=0)``
is the same bound where all sites stand in one full data plate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyro
from pyro.infer import RenyiELBO

import ppvae
from ppvae.bench import by_hand, stock_pyro
from ppvae.bench.harness import Variant
from ppvae.bench.ours import bits, modes
from ppvae.bench.run import Bench, Record

SECONDS = 60
HAND = "by hand, vectorised"
ROUNDS = {1: 40, 5: 30, 50: 12}


def case(
    bench: Bench,
    particles: Sequence[int] = (1, 5, 50),
    rows: int = 128,
    features: int = 784,
    hidden: int = 400,
    latents: int = 20,
) -> Iterator[list[Record]]:
    """Time a step at each number of particles."""
    x = bits(bench, rows, features)

    def vae() -> by_hand.VAE:
        return by_hand.connected(features, hidden, latents).to(bench.device)

    def pair() -> ppvae.Pair:
        return ppvae.make("vae", features, latents, hidden=(hidden,))

    for P in particles:

        def renyi(P: int = P) -> RenyiELBO:
            return RenyiELBO(alpha=0, num_particles=P, vectorize_particles=True, max_plate_nesting=1)

        with pyro.get_param_store().scope():
            variants = {
                HAND: Variant(lambda P=P: by_hand.step(vae(), lambda hand: hand.weighted_loss(x, P))),
                **modes(bench, pair, x, ppvae.iw_elbo(P)),
                "Pyro, RenyiELBO(alpha=0)": Variant(lambda: stock_pyro.step(vae(), x, renyi())),
            }
            yield bench.compare(f"{P} particles", variants, HAND, ROUNDS.get(P, 12))
