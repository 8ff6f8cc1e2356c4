"""Pictures of latents: codes of rows, their spread, what each coordinate is used for."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from torch import Tensor

from ppvae import evaluate, exact
from ppvae.door import enter
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.plots.style import COLOURS, axes_of, scatter
from ppvae.plots.values import codes_of, latent_of


def codes(pair: Pair, x: Any, mask: Any = None, label: Any = None, ax: Axes | None = None) -> Axes:
    """The aggregate posterior: E_q[z | x_o] of each row in the plane, by label, beside circles of 1, 2 and 3 standard
    deviations of the prior N(0, I). Of more than two coordinates the two of largest variance.

    Args:
        pair: with one latent vector of two coordinates or more.
        x: (N, D), NaN = missing.
        mask: True = observed.
        label: (N,) whole numbers from 0, or None.
        ax: where to draw.
    """
    mean, _ = codes_of(pair, x, mask)
    first, second = _two(mean)
    ax = axes_of(ax, (6.0, 6.0))
    for radius in (1, 2, 3):
        ax.add_patch(Ellipse((0, 0), 2 * radius, 2 * radius, fill=False, color="0.6", linewidth=0.8))
    scatter(ax, mean[:, [first, second]], label)
    ax.set_xlabel(f"E[z{first + 1} | x]")
    ax.set_ylabel(f"E[z{second + 1} | x]")
    ax.set_aspect("equal", "datalim")
    ax.set_title("codes of the rows; circles: 1, 2, 3 standard deviations of the prior", fontsize=10)
    return ax


def tsne(pair: Pair, x: Any, mask: Any = None, label: Any = None, seed: int = 0, ax: Axes | None = None) -> Axes:
    """The codes E_q[z | x_o] of rows in the plane by t-SNE, in which neighbours stay neighbours and distances say little.

    Reference: van der Maaten & Hinton 2008. Arguments as in `codes`.
    """
    from sklearn.manifold import TSNE

    mean, _ = codes_of(pair, x, mask)
    if len(mean) < 5:
        raise Problem(f"x has {len(mean)} rows", "neighbours among fewer than 5 say nothing", "hundreds of rows")
    method = TSNE(init="pca", random_state=seed, perplexity=min(30.0, (len(mean) - 1) / 3))
    ax = axes_of(ax, (6.0, 6.0))
    scatter(ax, torch.from_numpy(method.fit_transform(mean.numpy())), label)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title("t-SNE of E[z | x]", fontsize=10)
    return ax


def ellipses(pair: Pair, x: Any, mask: Any = None, ax: Axes | None = None) -> Axes:
    """q(z | x_o) of each row beside the exact posterior p(z | x_o) of the same factor analysis: ellipses of one standard
    deviation, which hold 39 % of the mass.

    Args:
        pair: whose decoder is a factor analysis (W, loc, scale) of two latents.
        x: a few rows, (N, D), NaN = missing.
        mask: True = observed.
        ax: where to draw.
    """
    latent_of(pair, 2)
    story: Any = getattr(pair, "decoder", None)
    if not all(isinstance(getattr(story, name, None), Tensor) for name in ("W", "loc", "scale")):
        raise Problem(
            "the pair's decoder has no W, loc and scale",
            "an exact posterior is known of factor analysis",
            "a pair whose name begins with factor_analysis",
        )
    mean, spread = codes_of(pair, x, mask)
    rows = torch.as_tensor(x).to(story.W)
    seen = ~rows.isnan() if mask is None else torch.as_tensor(mask).bool().to(rows.device) & ~rows.isnan()
    with torch.no_grad():
        truth = exact.posterior(story.W, story.loc, story.scale, rows, seen)
    ax = axes_of(ax, (6.0, 6.0))
    of_guide = torch.diag_embed(spread.square())
    for centres, covariances, style, name in (
        (truth.mean.cpu(), truth.covariance_matrix.cpu(), {"edgecolor": COLOURS[0], "linewidth": 2}, "exact"),
        (mean, of_guide, {"edgecolor": COLOURS[6], "linestyle": "--", "linewidth": 1.5}, "guide"),
    ):
        for n, (centre, covariance) in enumerate(zip(centres, covariances, strict=True)):
            ax.add_patch(_ellipse(centre, covariance, style, name if n == 0 else None))
    ax.autoscale_view()
    ax.set_aspect("equal", "datalim")
    ax.set_xlabel("z1")
    ax.set_ylabel("z2")
    ax.legend()
    ax.set_title("posteriors of the rows, one standard deviation", fontsize=10)
    return ax


def kl(pair: Pair, x: Any, mask: Any = None, ax: Axes | None = None) -> Axes:
    """Mean KL(q(z_k | x_o) || p(z_k)) of each coordinate, in nats, largest first; those that are not active
    (`ppvae.evaluate.units`) grey.

    Args:
        pair: with one latent vector whose KL is a sum over coordinates.
        x: (N, D), NaN = missing; at least two rows.
        mask: True = observed.
        ax: where to draw.
    """
    name = latent_of(pair)
    table = enter(pair, x, mask)
    if len(table) < 2:
        raise Problem(f"x has {len(table)} row", "a coordinate in use moves from row to row", "hundreds of rows")
    units = evaluate.units(pair, table)[name]
    if units.kl is None:
        raise Problem(
            f"the KL of {name!r} is no sum over its coordinates",
            "a guide whose coordinates depend on one another",
            "a Gaussian guide with a diagonal covariance",
        )
    order = units.kl.argsort(descending=True).cpu()
    values, active = units.kl.cpu()[order], units.active.cpu()[order]
    ax = axes_of(ax, (max(4.0, 0.28 * len(order) + 1), 3.5))
    shades = [COLOURS[5] if on else "0.75" for on in active.tolist()]
    ax.bar(range(len(order)), values.numpy(), color=shades)
    ax.set_xticks(range(len(order)), [str(k + 1) for k in order.tolist()], fontsize=8 if len(order) <= 30 else 5)
    ax.set_xlabel("coordinate of z")
    ax.set_ylabel("KL from the prior, nats")
    ax.set_title(
        f"{int(active.sum())} of {len(order)} coordinates active, {values.sum():.1f} nats together", fontsize=10
    )
    return ax


def _two(mean: Tensor) -> tuple[int, int]:
    if mean.shape[1] < 2:
        raise Problem("the latent has one coordinate", "a plane has two", "latents=2")
    if mean.shape[1] == 2:
        return 0, 1
    a, b = sorted(mean.var(0).argsort(descending=True)[:2].tolist())
    return a, b


def _ellipse(centre: Tensor, covariance: Tensor, style: dict[str, Any], label: str | None) -> Ellipse:
    """One standard deviation around the centre."""
    variance, axes = torch.linalg.eigh(covariance.double())
    angle = torch.rad2deg(torch.atan2(axes[1, 1], axes[0, 1])).item()
    height, width = (2 * variance.sqrt()).tolist()
    return Ellipse(tuple(centre.tolist()), width, height, angle=angle, fill=False, label=label, **style)
