"""What to observe next: how much each missing entry would tell, and how fast the error falls when the best are bought."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppvae.conditioning.averages import log_mean_exp
from ppvae.conditioning.completion import story
from ppvae.conditioning.posterior import Posterior, condition
from ppvae.door import Table
from ppvae.errors import Problem, refuse_count
from ppvae.pair import Pair
from ppvae.tracing.hidden import refuse_hidden

CELLS = 2**21  # log-densities at once


class Gain(NamedTuple):
    """What each missing entry would tell, (N, D), NaN where an entry is observed.

    Attributes:
        nats: the expected information gain.
        error: its Monte Carlo standard error.
    """

    nats: Tensor
    error: Tensor


class Acquisition(NamedTuple):
    """Entries bought one after the other in every row.

    Attributes:
        order: the column bought in each step, (T, N).
        error: what is left of the squared error before any step and after each, (T + 1,): of the target, or summed over
            the entries still hidden; a mean over rows in either case.
    """

    order: Tensor
    error: Tensor


def gain(pair: Pair, x: Any, mask: Any = None, *, target: int | None = None, draws: int = 256) -> Gain:
    r"""Estimate how much observing x_j would tell of the latents, or of one entry, before x_j is seen.

    .. math:: I(z; x_j \mid x_o) = E \log \frac{p(x_j \mid z)}{p(x_j \mid x_o)}, \qquad
        I(x_t; x_j \mid x_o) = E \log \frac{p(x_t, x_j \mid x_o)}{p(x_t \mid x_o) \, p(x_j \mid x_o)}

    Draws z_s of p(z | x_o) give x_s of the story, and :math:`p(x \mid x_o) \approx \tfrac1S \sum_t p(x \mid z_t)`, s
    included: of the latents the estimate is a lower bound in expectation, at most log S, that rises to the gain with S. No guide is
    asked about entries that nobody has seen.

    References: Lindley 1956; Foster et al. 2019 (contrastive estimate); Ma et al. 2019 (EDDI, the reward).

    Args:
        pair: fitted; its story's features are independent given the latents.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name.
        mask: True = observed.
        target: the column that it should tell of; None: the latents.
        draws: S.

    Raises:
        Problem: nothing is missing, a target that is observed or is no column, features that depend on one another, fewer
            than two draws.
    """
    refuse_count("draws", draws)
    if draws < 2:
        raise Problem("draws is 1", "one draw cannot be told from the mean of all", "draws=256")
    post = condition(pair, x, mask)
    refuse_hidden(pair, post.table)
    hidden = _hidden(post.table, target)
    with post.evaluating():
        parts = [_gain(post, rows, target, draws) for rows in post.row_blocks(draws)]
    nats, error = (torch.cat(part) for part in zip(*parts, strict=True))
    if target is not None:
        hidden = hidden & (torch.arange(hidden.shape[1], device=hidden.device) != target)
    return Gain(nats.where(hidden, torch.nan), error.where(hidden, torch.nan))


def acquire(
    pair: Pair,
    x: Any,
    mask: Any,
    *,
    steps: int,
    target: int | None = None,
    draws: int = 256,
    rule: str = "gain",
) -> Acquisition:
    """Buy entries one by one in every row, each time the one that tells most, and follow the error of what is not yet bought.

    Args:
        pair: fitted.
        x: complete rows (N, D): what is bought is looked up here, and errors are told by it.
        mask: True = known from the start.
        steps: entries to buy in each row; a row of which nothing is left to buy keeps its error.
        target: the column that is to be told, never bought; None: all that is hidden.
        draws: of `gain`; imputations are means over ten times as many.
        rule: "gain", or "random" to compare with.

    Raises:
        Problem: as `gain`; x with missing entries; another rule.
    """
    refuse_count("steps", steps)
    if rule not in ("gain", "random"):
        raise Problem(f"rule is {rule!r}", "a misspelt rule", "'gain' or 'random'")
    full = condition(pair, x).table
    if full.masks:
        raise Problem("x has missing entries", "what is bought is looked up in x", "complete rows, and a mask of them")
    known = condition(pair, x, mask).table
    entries = {name: value for name, value in known.values.items()}
    truth, seen = full.values["x"], ~_hidden(known, target)
    order, error = [], [_left(pair, entries, truth, seen, target, draws)]
    for _ in range(steps):
        open = ~seen
        if target is not None:
            open[:, target] = False
        if rule == "gain" and open.any():
            worth = gain(pair, {**entries, "x": truth}, seen, target=target, draws=draws).nats
        else:
            worth = torch.rand_like(truth)
        column = worth.where(open, -torch.inf).argmax(1)
        bought = open.any(1)
        seen = seen.clone()
        seen[bought, column[bought]] = True
        order.append(column.where(bought, -1))
        error.append(_left(pair, entries, truth, seen, target, draws))
    return Acquisition(torch.stack(order), torch.stack(error))


def _hidden(table: Table, target: int | None) -> Tensor:
    if "x" not in table.masks or bool(table.masks["x"].all()):
        raise Problem(
            "nothing is missing", "all entries are observed already", "NaN, or a mask that is False somewhere"
        )
    hidden = ~table.masks["x"].expand_as(table.values["x"])
    if target is not None and (not 0 <= target < hidden.shape[1] or not hidden[:, target].all()):
        what = "observed in some rows" if 0 <= target < hidden.shape[1] else f"none of {hidden.shape[1]} columns"
        raise Problem(
            f"the target is column {target}, {what}", "a gain is about what is not yet known", "a column that is hidden"
        )
    return hidden


def _gain(post: Posterior, rows: Table, target: int | None, draws: int) -> tuple[Tensor, Tensor]:
    """The mean over draws and its standard error, (n, D) each."""
    site = story(post.pair, rows, post.resampled(rows, draws, None), draws)
    likelihood, x = site["fn"], site["value"]  # (S, n, D)
    if likelihood.event_dim:
        raise Problem(
            f"the likelihood {type(likelihood).__name__} has features that depend on one another",
            "an entry's own density is needed",
            "a story whose features are independent given its latents",
        )
    own = likelihood.log_prob(x).expand(x.shape)
    many = max(1, CELLS // x.numel())
    found = torch.cat([_told(likelihood, value, target) for value in x.split(many)])  # (S, n, D)
    each = found + own if target is None else found
    return each.mean(0), each.std(0) / draws**0.5


def _told(likelihood: Any, x: Tensor, target: int | None) -> Tensor:
    """Of values x (s, n, D): minus log p(x_j | x_o), or the log-ratio with the target's own."""
    log_p = likelihood.log_prob(x.unsqueeze(1)).transpose(0, 1)  # (S, s, n, D)
    alone = log_mean_exp([log_p])
    if target is None:
        return -alone
    together = log_mean_exp([log_p + log_p[..., target, None]])
    return together - alone - alone[..., target, None]


def _left(
    pair: Pair, entries: dict[str, Tensor], truth: Tensor, seen: Tensor, target: int | None, draws: int
) -> Tensor:
    if bool(seen.all()):
        return truth.new_zeros(())
    apart = (condition(pair, {**entries, "x": truth}, seen).impute_mean(10 * draws) - truth).square()
    return apart[:, target].mean() if target is not None else apart.sum(1).mean()
