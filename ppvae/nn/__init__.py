"""Networks that return distributions, so that a sample line is its formula."""

from ppvae.nn.columns import Columns, ColumnsHead
from ppvae.nn.encoders import encoder
from ppvae.nn.heads import Bernoulli, Categorical, Gaussian, Normal, likelihood
from ppvae.nn.imputations import Imputations
from ppvae.nn.layers import mlp, rows
from ppvae.nn.mechanisms import Groups, SelfMasking, mechanism
from ppvae.nn.mixture import Mixture
from ppvae.nn.parts import Patterns, patterns

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "ColumnsHead",
    "Gaussian",
    "Groups",
    "Imputations",
    "Mixture",
    "Normal",
    "Patterns",
    "SelfMasking",
    "encoder",
    "likelihood",
    "mechanism",
    "mlp",
    "patterns",
    "rows",
]
