"""Does the fitted story make data like those observed? Posterior predictive checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppvae.conditioning.posterior import condition
from ppvae.errors import Problem, refuse_count
from ppvae.pair import SEEN, Pair
from ppvae.tracing.traces import At, is_global


class PredictiveCheck(NamedTuple):
    """A statistic of the data beside the same statistic of replicated data, each of the statistic's own shape.

    Attributes:
        p_value: P(T(x_rep) > T(x) | x) + P(T(x_rep) = T(x) | x) / 2: near 0 or 1 where the story does not make such data.
        observed: T(x).
        replicated: T(x_rep) of every draw, (S, …).
    """

    p_value: Tensor
    observed: Tensor
    replicated: Tensor


def predictive_check(
    pair: Pair, x: Any, mask: Any, statistic: Callable[[Tensor], Tensor], draws: int = 100
) -> PredictiveCheck:
    """Compare a statistic of the data with its law under the posterior predictive distribution.

    Each replicate draws every row's latents from p(z | x_o), then a new row from p(x | z), and hides what the data hide.
    Data are used twice, so under the true story p-values crowd around 1/2 rather than spread evenly: an extreme one tells,
    a moderate one does not acquit.

    References: Rubin 1984; Gelman, Meng & Stern 1996.

    Args:
        pair: fitted.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name.
        mask: True = observed.
        statistic: of a table (N, D) with NaN where missing, a tensor of any shape: ``lambda x: x.nanmean(0)``.
        draws: S replicates of the whole table.

    Raises:
        Problem: a statistic that fails, or reads missing entries.
    """
    refuse_count("draws", draws)
    post = condition(pair, x, mask)
    table, sites = post.table, pair.sites(post.table.values)
    if "x" not in table.values:
        raise Problem("there is no x", "replicates are compared with it", "pass the rows that were observed")
    observed = _of(statistic, table.masks.get("x"), table.values["x"])
    latents = post.sample(draws) if sites.keys() - table.values.keys() else {}
    partly = table.partly_seen(pair)
    drawn = {"x", SEEN} if pair.hides("x") else {"x"}  # a story of the mask replicates it too
    given = {name: value for name, value in table.values.items() if name not in drawn and name not in partly}
    replicated = []
    with post.evaluating():
        for s in range(draws):
            shapes = {name: sites[name]["value"].shape for name in latents}  # of one row
            at = {
                name: value[s].reshape(shapes[name] if is_global(sites[name]) else (-1, *shapes[name][1:]))
                for name, value in latents.items()
            }
            with At(at):
                story = poutine.trace(pair.model).get_trace(size=len(table), **given)
            mask = story.nodes[SEEN]["value"] > 0.5 if SEEN in drawn and SEEN in story.nodes else table.masks.get("x")
            replicated.append(_of(statistic, mask, story.nodes["x"]["value"]))
    found = torch.stack(replicated)
    p = (found > observed).double().mean(0) + 0.5 * (found == observed).double().mean(0)
    return PredictiveCheck(p, observed, found)


def _of(statistic: Callable[[Tensor], Tensor], mask: Tensor | None, x: Tensor) -> Tensor:
    try:
        value = torch.as_tensor(statistic(x if mask is None else torch.where(mask, x, torch.nan)))
    except Exception as error:  # whatever the statistic is, its own words say what is wrong with it
        raise Problem(
            f"the statistic fails: {type(error).__name__}: {error}",
            "it is called with a table (N, D), NaN where missing, and gives a tensor",
            "statistic=lambda x: x.nanmean(0)",
        ) from error
    if value.isnan().any():
        raise Problem(
            f"the statistic is NaN in {int(value.isnan().sum())} of {value.numel()} places",
            "it reads missing entries, which are NaN",
            "torch.nanmean, torch.nansum, or x[~x.isnan()]",
        )
    return value
