"""Deep latent variable models as Pyro programs: write a story and a guide, train, condition, and check them."""

from ppvae import data, exact, nn
from ppvae.catalogue import load, make, names, save
from ppvae.checking import check
from ppvae.errors import Caution, Problem
from ppvae.objectives import elbo, iw_elbo
from ppvae.pair import Pair
from ppvae.posterior import Posterior, condition
from ppvae.training import Fit, fit

__version__ = "0.1.0"
__all__ = [
    "Caution",
    "Fit",
    "Pair",
    "Posterior",
    "Problem",
    "check",
    "condition",
    "data",
    "elbo",
    "exact",
    "fit",
    "iw_elbo",
    "load",
    "make",
    "names",
    "nn",
    "save",
]
