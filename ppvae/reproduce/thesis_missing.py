"""Tables 4.1 and 4.2 and figures 4.1 and 4.2 of the thesis: inference with missing data in factor analysis.

PPCA with 43 components is fitted in closed form to 80 % of the Frey faces. Then pixels are hidden, z is inferred from the
others, and the hidden ones are imputed by W E[z] + loc. A figure is the squared error x 100, averaged over the missing
pixels of a frame, then over frames. Table 4.1 draws the frames (1600 to learn from, 400 to test) from the fitted PPCA;
table 4.2 takes the real ones. Random: each pixel is missing with probability 0.5. Quarters: one quarter of the image is.
The denoising encoder learns from one mask a training frame and its train columns score those very masks; with a star it
learned from random masks whatever it is scored on.

Beside the thesis's rows stand our own: conjugate gradient at the true terms, by depth, and encoders that learned from the
training frames under random masks alone, by the ELBO, the story fixed (in as many seeds as the budget allows).

Reference: Williams, Nash & Nazabal 2018; thesis, section 4.3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

import ppvae
from ppvae import data, exact
from ppvae.exact import approximations, experts
from ppvae.reproduce.run import Cell, Place, Run, cells

SHAPE = (1, 28, 20)
LATENTS = 43  # 90 % of the variance
EXACT = "Exact inference"
Encoder = Callable[[Tensor, Tensor], Any] | approximations.Denoising  # rows and mask to a Gaussian

THESIS = {
    "thesis-4.1": {
        "Random": (4.5323, 1.8675, 0.9783, 1.0330, 1.0330, 0.5913),
        "Quarters": (4.4642, 2.5732, 2.2671, 1.0043, 1.6863, 0.6998),
    },
    "thesis-4.2": {
        "Random train": (4.6390, 1.9339, 1.0433, 0.7161, 0.7161, 0.6583),
        "Random test": (4.6218, 1.9531, 1.0878, 1.1450, 1.1450, 0.7165),
        "Quarters train": (4.6002, 2.7613, 2.4820, 0.7262, 1.8731, 1.2507),
        "Quarters test": (4.4886, 2.7124, 2.4496, 1.2220, 1.8883, 1.3677),
    },
}
ROWS = (
    "Mean imputation",
    "Full-covariance approx.",
    "Scaled-covariance approx.",
    "Denoising encoder",
    "Denoising encoder*",
    EXACT,
)


class Budget(NamedTuple):
    """What is spent: frames of the data, latents, and on each learned encoder the epochs, in the first so many seeds."""

    frames: int | None
    latents: int
    epochs: int
    seeds: int


BUDGETS = {"smoke": Budget(200, 8, 2, 1), "cpu": Budget(None, LATENTS, 60, 2), "full": Budget(None, LATENTS, 60, 10**9)}
COPIES = 8  # of the training rows, each with random holes of its own
LEARNED = {  # name of the pair, learning rate
    "Rank-one experts, learned": ("factor_analysis_rank_one_experts", 0.1),
    "Diagonal experts, learned": ("factor_analysis_diagonal_experts", 0.03),
    "Multiplicative, learned": ("factor_analysis_multiplicative", 1e-3),
    "Masked network, learned": ("factor_analysis_masked", 1e-3),
}
DEPTHS = (0, 1, 2, 4, 8, LATENTS)


def table_4_1(run: Run) -> list[Cell]:
    """Frames drawn from the fitted PPCA: what each encoder loses by itself."""
    spent, found = BUDGETS[run.budget], []
    for seed in range(run.seeds):
        run.say(f"seed {seed + 1} of {run.seeds}")
        train, _ = faces(seed, spent.frames)
        story = exact.ppca(train, spent.latents)
        drawn = draw(story, 2000 if spent.frames is None else spent.frames, seed)
        cut = round(0.8 * len(drawn))
        found.append(compare(story, drawn[:cut], {"": drawn[cut:]}, seed, spent))
    return _finish("thesis-4.1", found, run)


def table_4_2(run: Run) -> list[Cell]:
    """The frames themselves, those that PPCA was fitted to and those held out."""
    spent, found = BUDGETS[run.budget], []
    for seed in range(run.seeds):
        run.say(f"seed {seed + 1} of {run.seeds}")
        train, test = faces(seed, spent.frames)
        found.append(compare(exact.ppca(train, spent.latents), train, {" train": train, " test": test}, seed, spent))
    return _finish("thesis-4.2", found, run)


TABLES = {"thesis-4.1": table_4_1, "thesis-4.2": table_4_2}


def faces(seed: int, frames: int | None = None) -> tuple[Tensor, Tensor]:
    """The Frey faces in [-1, 1], float64, 80 % drawn at random to train on, and the others."""
    x = data.load("frey").x.double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:frames]
    cut = round(0.8 * len(order))
    return x[order[:cut]], x[order[cut:]]


def draw(story: exact.FactorAnalysis, rows: int, seed: int) -> Tensor:
    """Rows of x from a fitted factor analysis, (rows, D)."""
    chance = torch.Generator().manual_seed(seed)
    (D, K), dtype = story.W.shape, story.W.dtype
    z, e = torch.randn(rows, K, generator=chance, dtype=dtype), torch.randn(rows, D, generator=chance, dtype=dtype)
    return story.loc + z @ story.W.mT + story.scale * e


def hide(x: Tensor, how: str, seed: int) -> Tensor:
    """A mask (N, D), True = observed: pixels at "Random", or one of the four "Quarters"."""
    return data.mcar(x, 0.5, seed=seed) if how == "Random" else data.quarters(x, SHAPE, seed=seed)


def compare(
    story: exact.FactorAnalysis, train: Tensor, scored: dict[str, Tensor], seed: int, spent: Budget
) -> dict[Place, float]:
    """What one seed gives, by row and column: the error of every encoder, its ratio to the exact one's, and the KL to the
    exact posterior, mean over rows, in nats."""
    masks = {how: hide(train, how, 10 * seed + i) for i, how in enumerate(("Random", "Quarters"))}
    denoisers = {how: approximations.denoising(*story[:3], train, mask) for how, mask in masks.items()}
    learned = {
        row: learn(pair, rate, story, train, seed, spent.epochs)
        for row, (pair, rate) in LEARNED.items()
        if seed < spent.seeds
    }
    found: dict[Place, float] = {}
    apart: dict[Place, float] = {}
    for i, how in enumerate(masks):
        for split, x in scored.items():
            mask = masks[how] if x is train else hide(x, how, 10 * seed + 5 + i)
            at = how + split
            for row, encode in (encoders(story, denoisers[how], denoisers["Random"]) | learned).items():
                q = encode(x, mask)
                found[row, at] = float(100 * error(q, story, x, mask).mean())
                apart[row, f"{at}, KL to exact"] = float(exact.kl_to_posterior(q, *story[:3], x, mask).mean())
    ratios = {(row, f"{at}, ratio to exact"): value / found[EXACT, at] for (row, at), value in found.items()}
    return found | ratios | apart


def encoders(story: exact.FactorAnalysis, same: Encoder, star: Encoder) -> dict[str, Encoder]:
    """The thesis's encoders by the names of its tables, then conjugate gradient at the true terms, by depth."""
    by = story[:3]
    functions = (approximations.mean_imputation, approximations.full_covariance, approximations.scaled_covariance)
    closed = [lambda x, mask, f=f: f(*by, x, mask) for f in functions]
    found = dict(zip(ROWS, [*closed, same, star, lambda x, mask: exact.posterior(*by, x, mask)], strict=True))
    terms = experts.true_terms(*by)
    for depth in DEPTHS:
        found[f"Conjugate gradient, depth {depth}"] = partial(experts.conjugate_gradient, *terms, depth=depth)
    return found


def learn(name: str, rate: float, story: exact.FactorAnalysis, x: Tensor, seed: int, epochs: int) -> Encoder:
    """An encoder of the catalogue, learned by the ELBO from rows with random holes, the story as it is."""
    torch.manual_seed(seed)
    pair = ppvae.make(name, x.shape[1], story.W.shape[1], tied=True).float()
    pair.decoder.set_(*story[:3])
    pair.decoder.requires_grad_(False)
    if hasattr(pair.encoder, "c"):
        with torch.no_grad():
            pair.encoder.c.copy_(x.mean(0))
    rows = x.float().repeat(COPIES, 1)
    ppvae.fit(
        pair, rows, hide(rows, "Random", 10 * seed + 9), epochs=epochs, learning_rate=rate, seed=seed, progress=False
    )
    home = next(pair.parameters()).device

    def encode(x: Tensor, mask: Tensor) -> dist.TorchDistribution:
        with torch.no_grad():
            return _by_row(pair.encoder(x.float().to(home), mask.to(home)), x)

    return encode


def error(q: dist.TorchDistribution, story: exact.FactorAnalysis, x: Tensor, mask: Tensor) -> Tensor:
    """Squared error of W E[z] + loc, averaged over the missing pixels of each frame, (N,)."""
    missing = ~mask
    return ((q.mean @ story.W.mT + story.loc - x).square() * missing).sum(1) / missing.sum(1)


def _by_row(q: dist.TorchDistribution, like: Tensor) -> dist.TorchDistribution:
    """A guide's distribution of batch (N, 1) with batch (N,), in the dtype and on the device of ``like``."""
    mean = q.mean.squeeze(1).to(like)
    if isinstance(q, dist.MultivariateNormal):
        return dist.MultivariateNormal(mean, scale_tril=q.scale_tril.squeeze(1).to(like))
    return dist.Normal(mean, q.variance.sqrt().squeeze(1).to(like)).to_event(1)


def _finish(name: str, found: list[dict[Place, float]], run: Run) -> list[Cell]:
    if run.figures is not None:
        from ppvae.reproduce.thesis_pictures import draw_figures

        draw_figures(run)
    reference = {
        (row, column): value for column, values in THESIS[name].items() for row, value in zip(ROWS, values, strict=True)
    }
    return cells(found, reference)
