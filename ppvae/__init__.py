"""Deep latent variable models as Pyro programs: write a story and a guide, train, condition, and check them."""

from ppvae import data, evaluate, exact, nn
from ppvae.catalogue import load, make, names, save
from ppvae.checking import check
from ppvae.conditioning.posterior import Posterior, condition
from ppvae.conditioning.refine import gaps, memoryless, refine
from ppvae.errors import Caution, Problem
from ppvae.fitting.loop import Fit, fit
from ppvae.objectives import (
    annealed,
    balanced,
    beta,
    bivcca,
    capacity,
    completed_rows,
    elbo,
    free_bits,
    frozen,
    iw_elbo,
    jmvae,
    posterior_matching,
    renyi,
    semi_supervised,
    telbo,
    wake_sleep,
)
from ppvae.pair import Pair

__version__ = "0.1.0"
__all__ = [
    "Caution",
    "Fit",
    "Pair",
    "Posterior",
    "Problem",
    "annealed",
    "balanced",
    "beta",
    "bivcca",
    "capacity",
    "check",
    "completed_rows",
    "condition",
    "data",
    "elbo",
    "evaluate",
    "exact",
    "fit",
    "free_bits",
    "frozen",
    "gaps",
    "iw_elbo",
    "jmvae",
    "load",
    "make",
    "memoryless",
    "names",
    "nn",
    "refine",
    "posterior_matching",
    "renyi",
    "save",
    "semi_supervised",
    "telbo",
    "wake_sleep",
]
