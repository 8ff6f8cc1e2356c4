"""Tables with holes: the ways to complete them, and how one is chosen."""

from ppvae.imputation.choice import Choice, choose, draws_for, worth_trying
from ppvae.imputation.completed import Completed
from ppvae.imputation.ways import WAYS, Way, complete

__all__ = ["WAYS", "Choice", "Completed", "Way", "choose", "complete", "draws_for", "worth_trying"]
