"""Closed forms of linear-Gaussian models: what every approximation here is held against."""

from ppvae.exact.em import em
from ppvae.exact.posterior import impute_mean, log_evidence, mean_field, posterior
from ppvae.exact.ppca import FactorAnalysis, ppca

__all__ = ["FactorAnalysis", "em", "impute_mean", "log_evidence", "mean_field", "posterior", "ppca"]
