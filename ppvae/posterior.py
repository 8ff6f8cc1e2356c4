"""Condition a pair on what was observed: p(latents, missing | observed), on new rows, nothing refitted.

Everything here is self-normalised importance sampling with the guide as proposal, row by row: a row's draws are
chosen by that row's weights. Where the guide is the exact posterior all weights are equal, and every answer is exact
or an independent draw. Rows and particles go in blocks, so memory stays bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae import export
from ppvae.door import Table, enter
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.terms import weights_of
from ppvae.traces import PARTICLE_DIM, is_global, run

BLOCK_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}  # of one temporary: larger ones page-fault on a CPU


def condition(pair: Pair, x: Any, mask: Any = None) -> Posterior:
    """Condition a pair on rows of data, as it stands.

    Args:
        pair: fitted, or not.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name.
        mask: True = observed.
    """
    return Posterior(pair, enter(pair, x, mask))


class Posterior:
    """p(latents, missing | observed) of each row, by the pair's guide and importance weights. Made by `condition`.

    Attributes:
        global_latents: the latents outside the data plate; with one, no row has a weight of its own.
    """

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair, self.table = pair, table
        self.global_latents = {name for name, site in pair.sites(table.values).items() if is_global(site)}

    def log_evidence(self, particles: int = 1000) -> Tensor:
        r"""Estimate log p(x_o) of each row, (N,), in nats.

        .. math:: \log \frac{1}{P} \sum_p \frac{p(x_o, z_p)}{q(z_p | x)}, \quad z_p \sim q

        A lower bound in expectation that rises with P (Burda et al. 2016, eq. 8); the evidence itself, for any P, where
        the guide is exact.

        Args:
            particles: P; an exact guide needs one.

        Raises:
            Problem: the pair has a global latent, so that no row has an evidence of its own.
        """
        _refuse_count("particles", particles)
        particles = 1 if self.pair.exact else particles
        with self._evaluating():
            return torch.cat(
                [
                    _log_mean_exp([self._weights(rows, block) for block in blocks])
                    for rows, blocks in self._blocks(particles)
                ]
            )

    def sample(self, draws: int = 100, particles: int | None = None) -> dict[str, Tensor]:
        """Draw latents from p(latents | x_o), by sampling-importance-resampling.

        Args:
            draws: S.
            particles: the pool from which each row's draws are chosen by its weights; by default ten a draw and at
                least 100. Where the guide is exact, or a latent is global, the draws are the guide's own.

        Returns:
            Each latent by name, (S, N, K); a global one (S, ...).
        """
        _refuse_count("draws", draws)
        with self._evaluating():
            parts = [self._resampled(rows, draws, particles) for rows in self._row_blocks(self._pool(draws, particles))]
        if not parts[0]:
            raise Problem(
                "the pair has no latents", "it was made without a guide", "log_evidence() and impute() still work"
            )
        return {name: self._together(name, parts) for name in parts[0]}

    def impute(self, draws: int = 20, particles: int | None = None) -> Tensor:
        """Draw complete rows, (S, N, D): observed entries unchanged, missing ones from p(x_m | x_o).

        Latents by sampling-importance-resampling (Mattei & Frellsen 2019, section 3.3), then x from the story.

        Args:
            draws: S.
            particles: as in `sample`.
        """
        _refuse_count("draws", draws)
        with self._evaluating():
            return torch.cat(
                [
                    self._completed(rows, self._resampled(rows, draws, particles), draws)
                    for rows in self._row_blocks(self._pool(draws, particles))
                ],
                1,
            )

    def impute_mean(self, particles: int = 100) -> Tensor:
        r"""Complete the rows by E[x_m | x_o], (N, D), observed entries unchanged.

        .. math:: \sum_p w_p\, E[x | z_p] / \sum_p w_p, \quad w_p = p(x_o, z_p) / q(z_p | x)

        (Mattei & Frellsen 2019, eq. 9-10: each draw of z gives its mean of x, not a draw of x.)

        Args:
            particles: P.
        """
        _refuse_count("particles", particles)
        with self._evaluating():
            return torch.cat([self._mean(rows, blocks) for rows, blocks in self._blocks(particles)])

    def diagnostics(self, particles: int = 1000) -> dict[str, Tensor]:
        """Say how far each row's importance weights can be trusted.

        Returns:
            ``ess`` (N,): the effective number of draws among ``particles``, (sum w)^2 / sum w^2. ``pareto_k`` (N,): the
            tail index of the weights (Vehtari et al. 2024): above min(1 - 1/log10 P, 0.7) the estimates of that row are not
            to be trusted; -inf where all weights are equal.
        """
        _refuse_count("particles", particles)
        with self._evaluating():
            parts = [
                torch.cat([self._weights(rows, block) for block in blocks]) for rows, blocks in self._blocks(particles)
            ]
        weights = torch.cat(parts, 1)  # (P, N)
        relative = (weights - weights.amax(0)).exp()
        return {"ess": relative.sum(0).square() / relative.square().sum(0), "pareto_k": export.pareto_k(weights)}

    def to_datatree(self, draws: int = 100) -> Any:
        """Put draws into an xarray.DataTree whose groups are named as ArviZ names them.

        posterior (latents), posterior_predictive (completed rows), log_likelihood (per entry; 0 where missing),
        observed_data (NaN where missing) and constant_data (the mask). ``.to_netcdf(path)`` writes it;
        ``arviz.from_netcdf(path)`` reads it.

        Args:
            draws: S.
        """
        _refuse_count("draws", draws)
        latents, completed, scores = [], [], []
        with self._evaluating():
            for rows in self._row_blocks(self._pool(draws, None)):
                latents.append(self._resampled(rows, draws, None))
                story = self._story(rows, latents[-1], draws)
                completed.append(_put_back(rows, story["value"].expand(draws, len(rows), -1)))
                scores.append(_score(rows, story["fn"], draws))
        x = self.table.values["x"]
        return export.datatree(
            {name: self._together(name, latents) for name in latents[0]},
            torch.cat(completed, 1),
            torch.cat(scores, 1),
            x,
            self.table.masks.get("x", torch.ones((), dtype=torch.bool, device=x.device)).expand(x.shape),
        )

    def __repr__(self) -> str:
        missing = sum(int((~m).sum()) for m in self.table.masks.values())
        return f"Posterior({len(self.table)} rows, {missing} entries missing, {'exact' if self.pair.exact else 'by importance weights'})"

    # --- blocks ---------------------------------------------------------------------------------------

    def _pool(self, draws: int, particles: int | None) -> int:
        if self.pair.exact or self.global_latents:  # a global latent has no weight of a row
            return draws
        if particles is not None:
            _refuse_count("particles", particles)
        return max(100, 10 * draws) if particles is None else max(particles, draws)

    def _rows_at_once(self, particles: int) -> tuple[int, int]:
        """How many rows and particles make a block of the size that suits the device."""
        wide = max([v[0].numel() for v in self.table.values.values()] + [256])  # 256: a network's layer
        home = next(iter(self.table.values.values()))
        cells = max(1, BLOCK_BYTES[home.device.type if home.is_cuda else "cpu"] // (wide * home.element_size()))
        return max(1, cells // particles), min(particles, cells)

    def _row_blocks(self, particles: int) -> Iterator[Table]:
        size = len(self.table) if self.global_latents else self._rows_at_once(particles)[0]  # one draw for all rows
        for start in range(0, len(self.table), size):
            yield self.table.rows(slice(start, start + size))

    def _blocks(self, particles: int) -> Iterator[tuple[Table, list[int]]]:
        _, together = self._rows_at_once(particles)
        whole, rest = divmod(particles, together)
        for rows in self._row_blocks(particles):
            yield rows, [together] * whole + [rest] * bool(rest)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.pair.training
        self.pair.eval()
        try:
            with torch.no_grad(), pyro.validation_enabled(False):
                yield
        finally:
            self.pair.train(training)

    # --- one block ------------------------------------------------------------------------------------

    def _weights(self, rows: Table, particles: int) -> Tensor:
        return weights_of(run(self.pair, rows, particles))

    def _resampled(self, rows: Table, draws: int, particles: int | None) -> dict[str, Tensor]:
        """Each latent of the rows, (S, n, 1) + event, a global one (S, 1, 1) + event."""
        pool = self._pool(draws, particles)
        traces = run(self.pair, rows, pool, enumerate=False)
        latents = {**dict(traces.drawn()), **{n: s for n, s in traces.left() if n != "x"}}
        values = {name: site["value"] if pool > 1 else site["value"][None] for name, site in latents.items()}
        if self.pair.exact or self.global_latents:
            return values
        chosen = torch.multinomial(weights_of(traces).T.softmax(1), draws, replacement=True).T  # (S, n)
        each = torch.arange(len(rows), device=chosen.device)
        return {name: value[chosen, each] for name, value in values.items()}

    def _together(self, name: str, parts: list[dict[str, Tensor]]) -> Tensor:
        """One tensor of blocks of rows, without the dims that only plates need."""
        if name in self.global_latents:
            (part,) = parts
            return part[name].reshape(len(part[name]), *self.pair.sites()[name]["fn"].event_shape)
        return torch.cat([part[name] for part in parts], 1).squeeze(2)

    def _story(self, rows: Table, latents: dict[str, Tensor], draws: int) -> dict[str, Any]:
        """The site x of the story given draws of its latents: value (S, n, D) and distribution."""
        partly = rows.partly_seen(self.pair)
        given = {name: value for name, value in rows.values.items() if name != "x" and name not in partly}
        story = poutine.condition(self.pair.model, data=latents)
        with pyro.plate("particles", draws, dim=PARTICLE_DIM):
            return poutine.trace(story).get_trace(size=len(rows), **given).nodes["x"]

    def _completed(self, rows: Table, latents: dict[str, Tensor], draws: int) -> Tensor:
        """x from the story given the latents, with the observed entries put back, (S, n, D)."""
        return _put_back(rows, self._story(rows, latents, draws)["value"].expand(draws, len(rows), -1))

    def _mean(self, rows: Table, blocks: list[int]) -> Tensor:
        top, total, mean = None, 0.0, 0.0
        for block in blocks:
            traces = run(self.pair, rows, block, enumerate=False)
            weights = torch.zeros(block, len(rows)) if self.global_latents else weights_of(traces)
            site = traces.model.nodes["x"]["fn"]
            values = _mean_of(site).expand(block, len(rows), -1)  # (P, n, D)
            weights = weights.to(values)
            peak = weights.amax(0) if top is None else torch.maximum(top, weights.amax(0))
            shrink = 1.0 if top is None else (top - peak).exp()
            share = (weights - peak).exp()
            total = total * shrink + share.sum(0)
            mean = (mean * shrink[:, None] if top is not None else 0.0) + torch.einsum("pn,pnd->nd", share, values)
            top = peak
        return _put_back(rows, mean / total[:, None])


def _log_mean_exp(blocks: list[Tensor]) -> Tensor:
    weights = torch.cat(blocks)  # (P, n): a number a draw, small beside the draws
    return weights.logsumexp(0) - math.log(len(weights))


def _score(rows: Table, likelihood: Any, draws: int) -> Tensor:
    x, mask = rows.values["x"], rows.masks.get("x")
    score = likelihood.log_prob(x if mask is None else torch.where(mask, x, likelihood.sample()))
    score = score if mask is None else torch.where(mask, score, 0.0)
    return score.expand(draws, len(rows), -1)


def _put_back(rows: Table, completed: Tensor) -> Tensor:
    x, mask = rows.values.get("x"), rows.masks.get("x")
    if x is None:
        return completed
    return x.expand(completed.shape).clone() if mask is None else torch.where(mask, x, completed)


def _mean_of(site: Any) -> Tensor:
    try:
        mean = site.mean
    except NotImplementedError:
        mean = None
    if mean is None or mean.isnan().any():
        raise Problem(
            f"the likelihood {type(site).__name__} has no mean",
            "classes have no average, and some densities none",
            "impute(draws=…) draws complete rows",
        )
    return mean


def _refuse_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Problem(
            f"{name} is {value!r}", f"{name} is a number of draws, a whole number of at least 1", f"{name}=100"
        )
