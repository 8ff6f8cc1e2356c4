"""Pictures of pairs whose rows are images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps, colors
from matplotlib.axes import Axes
from torch import Tensor

from ppvae.conditioning.posterior import condition
from ppvae.errors import Problem
from ppvae.machine import own_generators
from ppvae.pair import Pair
from ppvae.plots.style import GAP, axes_of, bare, mosaic, refuse_count, refuse_levels, separated, shape_of
from ppvae.plots.values import codes_of, latent_of, means_at

Range = tuple[float, float] | None


def manifold(pair: Pair, shape: Sequence[int], side: int = 20, levels: Range = None, ax: Axes | None = None) -> Axes:
    r"""E[x | z] on a grid of the plane of two latents, equally spaced in prior probability: :math:`z = \Phi^{-1}(u)`.

    The first coordinate rises to the right, the second upwards. Reference: Kingma & Welling 2014, figure 4.

    Args:
        pair: with one latent of two coordinates.
        shape: height and width of an image.
        side: images a side, at (i + ½) / side.
        levels: the values that are black and white; None: the smallest and the largest.
        ax: where to draw.

    Raises:
        Problem: other latents, a shape that does not fit.
    """
    latent_of(pair, 2)
    refuse_count(side=side)
    ax = board(means_at(pair, square(side)), shape, side, levels, "E[x | z], z = Φ⁻¹(u), u on the unit square", ax)
    ax.set_xlabel("z₁ (its prior probability, 0 to 1) →")
    ax.set_ylabel("z₂ (its prior probability, 0 to 1) →")
    return ax


def square(side: int) -> Tensor:
    """z = Φ⁻¹((i + ½) / side) for both coordinates, (side², 2): the first rises to the right, the second upwards."""
    z = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side)
    up, right = torch.meshgrid(z.flip(0), z, indexing="ij")
    return torch.stack([right, up], -1).reshape(-1, 2)


def traversal(
    pair: Pair,
    x: Any,
    shape: Sequence[int],
    span: float = 2.5,
    steps: int = 9,
    latents: int = 10,
    levels: Range = None,
    ax: Axes | None = None,
) -> Axes:
    """E[x | z] of one row's code, one coordinate at a time moved from -span to span: one coordinate a row of images, those
    with the largest \\|E_q[z_k]\\| / sd_q[z_k] on top.

    Args:
        pair: with one latent vector.
        x: one row, (D,) or (1, D), NaN = missing.
        shape: height and width of an image.
        span: in standard deviations of the prior.
        steps: images a coordinate.
        latents: coordinates that are shown, at most.
        levels: as in `manifold`.
        ax: where to draw.
    """
    refuse_count(steps=steps, latents=latents)
    mean, spread = codes_of(pair, torch.atleast_2d(torch.as_tensor(x)))
    if len(mean) != 1:
        raise Problem(f"x has {len(mean)} rows", "a traversal starts from one", "x[:1]")
    order = (mean.abs() / spread)[0].argsort(descending=True)[:latents]
    z = mean.expand(len(order) * steps, -1).clone()
    at = torch.linspace(-span, span, steps, dtype=z.dtype)
    z[torch.arange(len(z)), order.repeat_interleave(steps)] = at.repeat(len(order))
    images = means_at(pair, z)
    height, width = shape_of(shape, images.shape[1])
    ax = board(images, shape, steps, levels, "E[x | z], one coordinate of the row's code moved", ax)
    ax.set_yticks([height * (i + 0.5) for i in range(len(order))], [f"z{k + 1}" for k in order.tolist()])
    ax.set_xticks([width * (i + 0.5) for i in range(steps)], [f"{value:.1f}" for value in at.tolist()])
    ax.set_xlabel("value of the coordinate")
    return ax


def interpolation(
    pair: Pair, x: Any, shape: Sequence[int], steps: int = 9, levels: Range = None, ax: Axes | None = None
) -> Axes:
    """E[x | z] on the straight line between the codes of two rows, between the rows themselves.

    Args:
        pair: with one latent vector.
        x: two rows, (2, D).
        shape: height and width of an image.
        steps: images on the line, its ends included.
        levels: as in `manifold`.
        ax: where to draw.
    """
    x = torch.as_tensor(x)
    if len(x) != 2:
        raise Problem(f"x has {len(x)} rows", "a line has two ends", "x[[0, 5]]")
    refuse_count(steps=steps)
    mean, _ = codes_of(pair, x)
    share = torch.linspace(0, 1, steps, dtype=mean.dtype)[:, None]
    images = means_at(pair, (1 - share) * mean[:1] + share * mean[1:])
    row = torch.cat([x[:1].to(images), images, x[1:].to(images)])
    ax = board(row, shape, steps + 2, levels, "E[x | z] between two codes; at the ends the rows", ax)
    return ax


def reconstructions(
    pair: Pair,
    x: Any,
    shape: Sequence[int],
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9),
    draws: int = 200,
    seed: int = 0,
    levels: Range = None,
    ax: Axes | None = None,
) -> Axes:
    """One row under growing masks: what is observed, E[x_m | x_o], and the standard deviation of each missing pixel.

    A larger mask contains the smaller ones. Missing pixels are orange. The standard deviation is that of the pair's own draws of
    complete rows. As figures 4.1 and 4.2 of the thesis, for any pair.

    Args:
        pair: any pair that imputes.
        x: one complete row, (D,) or (1, D).
        shape: height and width of an image.
        shares: of the pixels that are missing, in [0, 1).
        draws: of complete rows.
        seed: of masks and draws.
        levels: as in `manifold`, of the first two rows of images.
        ax: where to draw.
    """
    x = torch.atleast_2d(torch.as_tensor(x))
    if len(x) != 1:
        raise Problem(f"x has {len(x)} rows", "the picture shows one under several masks", "x[:1]")
    if not len(shares) or not all(0 <= share < 1 for share in shares):
        raise Problem(f"shares is {tuple(shares)}", "each is a share of the pixels, 0 <= share < 1", "shares=(0, 0.5)")
    refuse_count(draws=draws)
    refuse_levels(levels)
    height, width = sides = shape_of(shape, x.shape[1])
    with own_generators(seed):
        order = torch.rand(x.shape[1])
        seen = torch.stack([order >= share for share in shares])
        post = condition(pair, x.expand(len(shares), -1), seen)
        complete = post.impute(draws)
        mean, spread = post.impute_mean(draws).cpu(), complete.std(0).cpu()
    black, white = levels or (float(x.min()), float(x.max()))
    grey, heat = colors.Normalize(black, white), colors.Normalize(0, max(float(spread.max()), 1e-12))

    def painted(values: Tensor, norm: colors.Normalize, cmap: str) -> np.ndarray:
        return colormaps[cmap](norm(mosaic(values, (height, width), len(shares))))

    observed = painted(x.expand(len(shares), -1), grey, "gray")
    observed[mosaic(~seen, (height, width), len(shares))] = colors.to_rgba(GAP)
    picture = np.concatenate([observed, painted(mean, grey, "gray"), painted(spread, heat, "viridis")])
    ax = axes_of(ax, (1.3 * len(shares) + 1.2, 1.3 * 3 * height / width + 0.6))
    ax.imshow(picture, interpolation="nearest")
    separated(ax, 3, len(shares), sides)
    bare(ax, f"one row under growing masks; the largest standard deviation is {spread.max():.2g}")
    ax.set_yticks([height * (i + 0.5) for i in range(3)], ["observed", "mean", "standard\ndeviation"])
    ax.set_xticks([width * (i + 0.5) for i in range(len(shares))], [f"{share:.0%}" for share in shares])
    ax.set_xlabel("missing")
    return ax


def board(
    images: Tensor, shape: Sequence[int], columns: int, levels: Range, title: str, ax: Axes | None = None
) -> Axes:
    """Images (M, D) side by side, so many columns; arguments as in `manifold`."""
    refuse_levels(levels)
    height, width = sides = shape_of(shape, images.shape[1])
    black, white = levels or (float(images.min()), float(images.max()))
    ax = axes_of(ax, (8.0, 8.0 * len(images) * height / (columns**2 * width) + 0.6))
    ax.imshow(mosaic(images, sides, columns), cmap="gray", vmin=black, vmax=white, interpolation="nearest")
    separated(ax, len(images) // columns, columns, sides)
    return bare(ax, title)
