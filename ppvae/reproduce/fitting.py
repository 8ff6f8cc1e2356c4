"""What the tables of fitted images share: the data of a budget, one way to train, and scores with their errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ppvae
from ppvae import data, evaluate
from ppvae.machine import own_generators
from ppvae.reproduce.run import Run


class Images(NamedTuple):
    """The first rows of each split.

    Attributes:
        stored: (N, D) to train on; where ``redraw`` is given, probabilities of which each batch is a fresh draw.
        train: (N, D), one fixed observation of them.
        test: (M, D), one fixed observation.
        train_label: (N,), or None.
        test_label: (M,), or None.
        shape: (height, width) of a row.
        likelihood: the one that suits an observation.
        redraw: as in `ppvae.fit`.
    """

    stored: Tensor
    train: Tensor
    test: Tensor
    train_label: Any
    test_label: Any
    shape: tuple[int, int]
    likelihood: str
    redraw: Callable[..., Tensor] | None


def images(run: Run, name: str, train: int, test: int) -> Images:
    """Load at most so many rows of each split, and tell the run what they are."""
    source = data.load(name)
    rows = {"train": source.observed("train")[:train], "test": source.observed("test")[:test]}
    labels = {split: None if source.label is None else source.labels(split)[: len(x)] for split, x in rows.items()}
    run.data[name] = f"{source.scaling}; {len(rows['train'])} rows to train on, {len(rows['test'])} to test on"
    return Images(
        source.rows("train")[:train],
        rows["train"],
        rows["test"],
        labels["train"],
        labels["test"],
        (source.shape[1], source.shape[2]),
        source.likelihood,
        source.redraw,
    )


def train(
    run: Run,
    what: str,
    seed: int,
    pair: str,
    x: Any,
    epochs: int,
    objective: Callable[..., Tensor] = ppvae.elbo(),  # noqa: B008  (frozen)
    redraw: Callable[..., Tensor] | None = None,
    batch_size: int = 128,
    **sizes: Any,
) -> ppvae.Pair:
    """Make a pair of the catalogue and fit it, from its first weights on by the seed; the run is told before and after.

    Args:
        what: its name for the reader.
        pair: its name in the catalogue.
        x: rows, or a mapping with "x".
        sizes: latents, hidden, … of `ppvae.make`.
    """
    rows = x["x"] if isinstance(x, dict) else x
    run.say(f"{what}, seed {seed}: {epochs} epochs of {len(rows)} rows")
    with own_generators(seed):
        made = ppvae.make(pair, rows.shape[1], **sizes)
    fitted = ppvae.fit(made, x, objective=objective, epochs=epochs, batch_size=batch_size, seed=seed, redraw=redraw)
    run.say(f"{what}, seed {seed}: bound {fitted.history[-1]['bound']:.2f}")
    return made


def bound(pair: ppvae.Pair, x: Any, seed: int = 0, draws: int = 10) -> Tensor:
    """The ELBO of each row, (N,) in nats, by so many draws."""
    with own_generators(seed):
        rate, distortion = evaluate.rate_distortion(pair, x, draws=draws)
    return -(rate + distortion).double().cpu()


def log_evidence(pair: ppvae.Pair, x: Tensor, particles: int, seed: int = 0) -> Tensor:
    """Importance-weighted log p(x) of each row, (N,) in nats (Burda et al. 2016, eq. 8)."""
    with own_generators(seed):
        return ppvae.condition(pair, x).log_evidence(particles).double().cpu()


def codes(pair: ppvae.Pair, x: Tensor) -> Tensor:
    """E_q[z | x] of each row under a Gaussian encoder, (N, K)."""
    home = next(pair.parameters())
    with torch.no_grad():
        return pair.encoder(x.to(home)).mean.squeeze(-2).cpu()


def mean(values: Tensor) -> tuple[float, float]:
    """The mean over rows and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))
