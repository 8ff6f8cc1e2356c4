"""The log-evidence of rows by importance sampling: 5,000 draws a row from a 784-400-20 VAE.

Measured on few rows and given for 1,000 by proportion: rows are worked on a block at a time, so each costs the same. The
reference is the decoder's matrix products alone, for as many draws in blocks of the same size: no way round them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import ppvae
from ppvae.bench.harness import Variant
from ppvae.bench.ours import bits
from ppvae.bench.run import Bench, Record
from ppvae.conditioning.blocks import Blocks

SECONDS = 35
MEASURED = {
    "cpu": 20,
    "cuda": 100,
}  # rows; each costs the same, but for one block a call that is compared with the eager one
PRODUCTS = "decoder's matrix products alone"


def case(
    bench: Bench, draws: int = 5000, rows: int = 1000, features: int = 784, hidden: int = 400, latents: int = 20
) -> Iterator[list[Record]]:
    """Time ``Posterior.log_evidence``."""
    measured = min(rows, MEASURED[bench.device.type])
    x = bits(bench, measured, features)
    pair = ppvae.make("vae", features, latents, hidden=(hidden,)).to(bench.device)
    post = ppvae.condition(pair, x)
    weights = [layer.weight.detach() for layer in pair.decoder.modules() if isinstance(layer, nn.Linear)]
    share = measured / rows
    variants = {
        PRODUCTS: Variant(lambda: products(weights, x, draws, _block(post, draws)), share),
        "log_evidence": Variant(lambda: lambda: post.log_evidence(draws), share),
    }
    setting = f"{rows} rows, {draws} draws each; measured on {measured} rows"
    yield bench.compare(setting, variants, PRODUCTS, 11)


def products(weights: list[Tensor], x: Tensor, draws: int, block: int) -> Callable[[], None]:
    """The chain of matrix products h @ W.T from draws of z (S, K), for every row of x, into buffers made beforehand."""
    z = torch.randn(block, weights[0].shape[1], device=x.device)
    buffers = [z.new_empty(block, len(W)) for W in weights]
    sizes = [block] * (len(x) * draws // block) + [len(x) * draws % block] * (len(x) * draws % block > 0)

    def run() -> None:
        for size in sizes:
            h = z[:size]
            for W, buffer in zip(weights, buffers, strict=True):
                h = torch.mm(h, W.T, out=buffer[:size])

    return run


def _block(post: Blocks, draws: int) -> int:
    """The draws that `log_evidence` has in hand at once."""
    rows, together = post.rows_at_once(draws)
    return min(rows, len(post.table)) * together
