"""Pictures of a pair, a fit and a table: each function draws on ``ax``, or on a new figure, and returns its axes."""

from ppvae.plots.curves import bounds, training
from ppvae.plots.images import interpolation, manifold, reconstructions, traversal
from ppvae.plots.latents import codes, ellipses, kl, tsne
from ppvae.plots.programs import graph

__all__ = [
    "bounds",
    "codes",
    "ellipses",
    "graph",
    "interpolation",
    "kl",
    "manifold",
    "reconstructions",
    "training",
    "traversal",
    "tsne",
]
