"""One training step of two other stories, beside the same networks and bound written by hand: batch 128, 784 bits.

Two stochastic layers (100 and 50 latents; tanh layers of 200 and 100), and a convolutional VAE (32 and 64 channels, 20
latents).
"""

from __future__ import annotations

from collections.abc import Iterator

import ppvae
from ppvae.bench import by_hand
from ppvae.bench.harness import Variant
from ppvae.bench.ours import bits, modes
from ppvae.bench.run import Bench, Record

SECONDS = 60
HAND = "by hand, fused Adam"


def case(bench: Bench, rows: int = 128, side: int = 28) -> Iterator[list[Record]]:
    """Time a step of each story; images are ``side`` pixels wide, a multiple of 4."""
    x = bits(bench, rows, side**2)
    stories = {
        "two_layer": (
            lambda: by_hand.TwoLayer(side**2, 50),
            lambda: ppvae.make("two_layer", side**2, 50, hidden=(200, 100)),
        ),
        "conv_vae": (
            lambda: by_hand.convolutional(side, 20),
            lambda: ppvae.make("conv_vae", side**2, 20, hidden=(32, 64)),
        ),
    }
    for name, (hand, pair) in stories.items():
        variants = {
            HAND: Variant(lambda hand=hand: by_hand.step(hand().to(bench.device), lambda twin: twin.loss(x))),
            **modes(bench, pair, x, ppvae.elbo()),
        }
        yield bench.compare(name, variants, HAND, 20)
