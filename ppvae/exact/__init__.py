"""Closed forms of linear-Gaussian models: what every approximation here is held against."""

from ppvae.exact import approximations, experts
from ppvae.exact.divergence import kl, kl_to_posterior
from ppvae.exact.em import em
from ppvae.exact.information import gain
from ppvae.exact.layers import Layers, layerwise
from ppvae.exact.posterior import impute_mean, log_evidence, mean_field, posterior
from ppvae.exact.ppca import FactorAnalysis, ppca

__all__ = [
    "FactorAnalysis",
    "Layers",
    "approximations",
    "em",
    "experts",
    "gain",
    "impute_mean",
    "kl",
    "kl_to_posterior",
    "layerwise",
    "log_evidence",
    "mean_field",
    "posterior",
    "ppca",
]
