"""A guide of rows with gaps whose encoder learns from rows that were completed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem, refuse_count
from ppvae.nn.imputations import Imputations, each
from ppvae.objectives.elbo import elbo
from ppvae.objectives.holding import frozen
from ppvae.pair import Pair
from ppvae.tracing.terms import terms_of
from ppvae.tracing.traces import run


@dataclass(frozen=True)
class completed_rows:  # noqa: N801  (a verb of the library, as ppvae.elbo)
    r"""The bound of an imputation mixture, per row in nats, whose encoder learns from the rows that were imputed.

    .. math:: E \log \frac{p(x_o, z)}{\frac1A \sum_a q(z | x_o, x_m^{(a)})} \text{ for the story}, \quad
        \frac1A \sum_a E_{q(z | x^{(a)})} \log \frac{p(x^{(a)}, z)}{q(z | x^{(a)})} \text{ for the encoder}

    The encoder stays what the imputations take it for, a posterior of complete rows. The value is the first line's.

    Reference: Simkus & Gutmann 2024, section 4.

    Of a pair whose story has the module ``decoder`` and whose guide draws `ppvae.nn.Imputations` by the module ``encoder``
    (`ppvae.guides.imputation_mixture`); rows without gaps teach it as they are.

    Args:
        particles: draws averaged over in the first line; as many as there are imputations take one from each.
    """

    particles: int = 5
    unit: ClassVar[str] = "nats per row"
    coupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_count("particles", self.particles)

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """The bound of each row, (N,).

        Raises:
            Problem: missing entries, and a guide that imputes nothing.
        """
        table = enter(pair, x, mask)
        with frozen(pair.encoder):
            traces = run(pair, table, self.particles)
            bound = terms_of(traces, table, closed=True).elbo
        imputed = [each(site["value"]) for _, site in traces.drawn() if isinstance(site["fn"], Imputations)]
        if not imputed and "x" in table.masks:
            raise Problem(
                "the guide imputes nothing, and entries are missing",
                "an encoder of rows with gaps, which has no completed rows to learn from",
                "ppvae.elbo(); or ppvae.make('imputation_mixture', …)",
            )
        x_a = imputed[0] if imputed else table.values["x"].unsqueeze(0)  # (A, N, D)
        with frozen(*(module for name, module in pair.named_children() if name != "encoder")):
            whole = elbo()(pair, _repeated(table, x_a)).reshape(x_a.shape[:2])
        return bound + (whole - whole.detach()).mean(0)


def _repeated(table: Table, x: Tensor) -> Table:
    """Complete rows (A, N, D) as a table of A N rows, each with its row's covariates."""
    A = len(x)
    values = {name: torch.cat([value] * A) for name, value in table.values.items() if name != "x"}
    masks = {name: torch.cat([mask] * A) for name, mask in table.masks.items() if name != "x"}
    return replace(table, values={**values, "x": x.flatten(0, 1)}, masks=masks)
