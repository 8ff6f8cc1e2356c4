"""Pictures of a pair, a fit, a table and objects: each function draws on ``ax``, or on a new figure, and returns its axes."""

from ppvae.plots.clouds import cloud
from ppvae.plots.curves import bounds, training
from ppvae.plots.images import interpolation, manifold, reconstructions, traversal
from ppvae.plots.latents import codes, ellipses, kl, tsne
from ppvae.plots.programs import graph
from ppvae.plots.surfaces import surfaces

__all__ = [
    "bounds",
    "cloud",
    "codes",
    "ellipses",
    "graph",
    "interpolation",
    "kl",
    "manifold",
    "reconstructions",
    "surfaces",
    "training",
    "traversal",
    "tsne",
]
