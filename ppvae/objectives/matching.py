"""Posterior matching: a guide that reads rows with holes learns from one that reads them whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.tracing.terms import log_guide
from ppvae.tracing.traces import Seen, run


@dataclass(frozen=True)
class posterior_matching:  # noqa: N801  (a verb of the library)
    r"""The log-density of a guide that sees fewer entries, at draws of one that sees more; per row in nats, no bound.

    .. math:: E_{o'} \, E_{q(z \mid x)} \log q_\phi(z \mid x_{o'})

    with o' what the law leaves visible. Its maximum over densities is :math:`E[q(z \mid x) \mid x_{o'}]`, the posterior itself where the
    teacher is exact: the guide falls towards KL(p || q), which covers what it cannot match, where the ELBO's KL(q || p) hides in a part of it. A factorised
    Gaussian ends with the marginal variances, under the ELBO with those of each latent given the others. No gradient passes
    through a draw, so the guide may have any density that can be evaluated.

    The story learns nothing: ``pair.decoder.requires_grad_(False)``.

    Reference: Strauss & Oliva 2022, eq. 5.

    Args:
        teacher: a fitted pair with the same latents, whose guide reads the rows as they are given. It stays as it is, and must be
            on the rows' device.
        law: what stays visible of rows x (N, D): a bool tensor (N, D), drawn anew in each step; ``lambda x: torch.rand_like(x) >
            0.5``. What is missing already stays missing.
    """

    teacher: Pair
    law: Callable[[Tensor], Tensor]
    unit: ClassVar[None] = None
    coupled: ClassVar[bool] = False

    def __call__(self, pair: Pair, x: Any, mask: Any = None) -> Tensor:
        """log q(z | x_o') of each row, (N,)."""
        table = enter(pair, x, mask)
        with torch.no_grad():
            told = run(self.teacher, table, enumerate=False)
        hidden = _hide(table, self.law)
        with Seen(hidden.partly_seen(pair)):
            guide = poutine.trace(poutine.replay(pair.guide, told.guide)).get_trace(
                size=len(table), **hidden.call(pair)
            )
        traces = replace(told, guide=guide)
        names, known = [name for name, _ in traces.drawn()], {name for name, _ in told.drawn()}
        if not names or set(names) != known:
            raise Problem(
                f"the guide draws {names} and the teacher {sorted(known)}",
                "the guide learns the density of the teacher's draws: both must have the same latents",
                "a teacher of the same story",
            )
        return log_guide(traces, names)[0]


def _hide(table: Table, law: Callable[[Tensor], Tensor]) -> Table:
    x = table.values["x"]
    seen = law(x)
    if not isinstance(seen, Tensor) or seen.shape != x.shape or seen.dtype != torch.bool:
        what = f"{seen.dtype} of shape {tuple(seen.shape)}" if isinstance(seen, Tensor) else type(seen).__name__
        raise Problem(
            f"the law of missingness gave {what} for x of shape {tuple(x.shape)}",
            "True says that an entry stays visible, entry by entry",
            "law=lambda x: torch.rand_like(x) > 0.5",
        )
    before = table.masks.get("x")
    return replace(table, masks={**table.masks, "x": seen if before is None else seen & before})
