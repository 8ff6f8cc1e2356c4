"""What a fitted pair is worth: scores of imputations, evidence, and diagnostics, beside the exact answer where there is one."""

from ppvae.evaluate import imagination
from ppvae.evaluate.acquisition import Acquisition, Gain, acquire, gain
from ppvae.evaluate.annealing import Annealed, Bracket, ais, bdmc
from ppvae.evaluate.calibration import Coverage, Ranks, sbc, tarp
from ppvae.evaluate.conformal import conformal
from ppvae.evaluate.imputation import ImputationScores, coverage, crps, crps_gaussian, imputation_scores, interval
from ppvae.evaluate.labels import class_probabilities
from ppvae.evaluate.latents import Information, RateDistortion, Units, information, rate_distortion, units
from ppvae.evaluate.multiple import Pooled, rubin
from ppvae.evaluate.predictive import PredictiveCheck, predictive_check
from ppvae.evaluate.symmetry import symmetry
from ppvae.evaluate.weights import Evidence, evidence, pareto_threshold

__all__ = [
    "Acquisition",
    "Annealed",
    "Bracket",
    "Coverage",
    "Evidence",
    "Gain",
    "ImputationScores",
    "Information",
    "Pooled",
    "PredictiveCheck",
    "Ranks",
    "RateDistortion",
    "Units",
    "acquire",
    "ais",
    "bdmc",
    "class_probabilities",
    "conformal",
    "coverage",
    "crps",
    "crps_gaussian",
    "evidence",
    "gain",
    "imagination",
    "imputation_scores",
    "information",
    "interval",
    "pareto_threshold",
    "predictive_check",
    "rate_distortion",
    "rubin",
    "sbc",
    "symmetry",
    "tarp",
    "units",
]
