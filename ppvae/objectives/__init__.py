"""What `fit` maximises: bounds on the log-evidence, per row, in nats.

An objective is called ``objective(pair, x, mask)`` and gives a differentiable bound for each row, (N,); its value is the
bound, and its gradient is the estimator that was asked for. It may be any callable; `fit` reads these attributes where
they are there::

    unit        None: the number is no bound on the evidence.
    coupled     True: a row's number depends on the other rows, so batches are never padded.
    scheduled   True: it is called ``objective(pair, table, done=done)``, done (0-dim) the share of the training that
                lies behind; outside of `fit` it stands at its end, 1.
    evaluate    ``evaluate(pair, table, done)`` gives the bound and its `ElboTerms`, whose means go into the history.
    in_force    ``in_force(done)`` gives the schedule's numbers by name, for the history.

Where it is an `nn.Module` its parameters are trained and saved with the pair's.
"""

from ppvae.objectives.completed import completed_rows
from ppvae.objectives.elbo import elbo
from ppvae.objectives.emphasis import balanced
from ppvae.objectives.holding import frozen
from ppvae.objectives.labels import semi_supervised
from ppvae.objectives.matching import posterior_matching
from ppvae.objectives.modalities import bivcca, jmvae, telbo
from ppvae.objectives.shaping import annealed, beta, capacity, free_bits
from ppvae.objectives.wake_sleep import wake_sleep
from ppvae.objectives.weighted import iw_elbo, renyi

__all__ = [
    "annealed",
    "balanced",
    "beta",
    "bivcca",
    "capacity",
    "completed_rows",
    "elbo",
    "free_bits",
    "frozen",
    "iw_elbo",
    "jmvae",
    "posterior_matching",
    "renyi",
    "semi_supervised",
    "telbo",
    "wake_sleep",
]
