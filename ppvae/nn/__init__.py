"""Networks that return distributions, so that a sample line is its formula."""

from ppvae.nn.encoders import encoder
from ppvae.nn.heads import Bernoulli, Categorical, Gaussian, Normal, likelihood
from ppvae.nn.layers import mlp, rows
from ppvae.nn.mechanisms import Groups, SelfMasking, mechanism
from ppvae.nn.mixture import Mixture

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Groups",
    "Mixture",
    "Normal",
    "SelfMasking",
    "encoder",
    "likelihood",
    "mechanism",
    "mlp",
    "rows",
]
