"""One training step of a VAE with one hidden layer of 400 and 20 latents, on batches of 784 bits.

Forward, backward and Adam. Every variant has the same networks, likelihood, batch and kind of optimizer, each as its own
documentation advises; the reference is written by hand, with the KL in closed form and a fused optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyro
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from torch import Tensor

import ppvae
from ppvae.bench import by_hand, stock_pyro
from ppvae.bench.harness import Variant
from ppvae.bench.ours import bits, modes
from ppvae.bench.run import Bench, Record

SECONDS = 100
HAND = "by hand, fused Adam"
ROUNDS = {128: 40, 512: 30, 4096: 10}


def case(
    bench: Bench,
    batches: Sequence[int] = (128, 512, 4096),
    features: int = 784,
    hidden: int = 400,
    latents: int = 20,
) -> Iterator[list[Record]]:
    """Time a step of each library at each batch size."""
    for rows in batches:
        x = bits(bench, rows, features)
        with pyro.get_param_store().scope():  # Pyro's steps leave theirs in a store of the process
            variants = _torch(bench, x, hidden, latents) | _peers(bench, x, hidden, latents)
            yield bench.compare(f"batch {rows}", variants, HAND, ROUNDS.get(rows, 10))


def _torch(bench: Bench, x: Tensor, hidden: int, latents: int) -> dict[str, Variant]:
    def vae() -> by_hand.VAE:
        return by_hand.connected(x.shape[1], hidden, latents).to(bench.device)

    def pair() -> ppvae.Pair:
        return ppvae.make("vae", x.shape[1], latents, hidden=(hidden,))

    def jitted() -> JitTrace_ELBO:
        return JitTrace_ELBO(ignore_jit_warnings=True)

    return {
        HAND: Variant(lambda: by_hand.step(vae(), lambda hand: hand.loss(x))),
        **modes(bench, pair, x, ppvae.elbo()),
        "Pyro, Trace_ELBO": Variant(lambda: stock_pyro.step(vae(), x, Trace_ELBO())),
        "Pyro, Trace_ELBO, no validation": Variant(lambda: stock_pyro.step(vae(), x, Trace_ELBO(), validate=False)),
        "Pyro, JitTrace_ELBO, no validation": Variant(lambda: stock_pyro.step(vae(), x, jitted(), validate=False)),
    }


def _peers(bench: Bench, x: Tensor, hidden: int, latents: int) -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    if pythae := bench.peer("peer_pythae", "pythae"):
        found["pythae"] = Variant(lambda: pythae.step(pythae.vae(x.shape[1], hidden, latents).to(bench.device), x))
    if numpyro := bench.peer("peer_numpyro", "NumPyro"):
        where = {"cpu": "cpu", "gpu": "cuda"}.get(numpyro.platform())
        if where == bench.device.type:
            found |= numpyro.steps(x, hidden, latents, bench.seed)
        else:
            bench.leave_out("NumPyro", f"JAX works on the {where or numpyro.platform()}: pip install 'jax[cuda12]'")
    return found
