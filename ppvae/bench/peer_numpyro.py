"""The step of NumPyro: `SVI.update` under `jax.jit`, alone or twenty at a time under `lax.scan`, as its examples run it."""

from __future__ import annotations

import os
from typing import Any

import torch

# XLA makes its pool of threads once, at JAX's first use, of as many as NPROC says.
os.environ.setdefault("NPROC", str(torch.get_num_threads()))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from jax.example_libraries import stax  # noqa: E402
from numpyro.infer import SVI, Trace_ELBO  # noqa: E402

from ppvae.bench.by_hand import RATE  # noqa: E402
from ppvae.bench.harness import Variant  # noqa: E402

SCANNED = 20


def platform() -> str:
    """Where JAX works: "cpu" or "gpu"."""
    return jax.default_backend()


def svi(features: int, hidden: int, latents: int) -> SVI:
    """The same networks, likelihood and optimizer as `by_hand.connected`."""
    encoder = stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(2 * latents))
    decoder = stax.serial(stax.Dense(hidden), stax.Relu, stax.Dense(features))

    def model(x: jax.Array) -> None:
        decode = numpyro.module("decoder", decoder, (len(x), latents))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latents), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encode = numpyro.module("encoder", encoder, (len(x), features))
        loc, spread = jnp.split(encode(x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(spread) + 1e-3).to_event(1))

    return SVI(model, guide, numpyro.optim.Adam(RATE), Trace_ELBO())


def steps(x: torch.Tensor, hidden: int, latents: int, seed: int = 0) -> dict[str, Variant]:
    """A jitted step on x (N, D), and a scan of twenty; both wait for JAX to be done."""
    rows, made = jnp.asarray(x.cpu().numpy()), svi(x.shape[1], hidden, latents)
    start = made.init(jax.random.PRNGKey(seed), rows)

    def one(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
        return made.update(state, rows)

    def many(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(lambda state, _: made.update(state, rows), state, length=SCANNED)

    return {
        "NumPyro, jit": _variant(one, start, rows, 1),
        f"NumPyro, scan of {SCANNED}": _variant(many, start, rows, SCANNED),
    }


def _variant(function: Any, state: Any, rows: jax.Array, share: float) -> Variant:
    compiled = jax.jit(function).lower(state, rows).compile()

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(compiled(state, rows))

    def peak() -> float | None:
        """XLA's plan: the old state, the new one, and the temporaries; not the rows."""
        found = compiled.memory_analysis()
        if found is None:
            return None
        return float(found.argument_size_in_bytes - rows.nbytes + found.output_size_in_bytes + found.temp_size_in_bytes)

    return Variant(lambda: run, share, peak)
