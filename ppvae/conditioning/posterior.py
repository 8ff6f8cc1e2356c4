"""Condition a pair on what was observed: p(latents, missing | observed), on new rows, nothing refitted.

Self-normalised importance sampling with the guide as proposal, row by row: a row's draws are chosen by that row's
weights. Where the guide is the exact posterior all weights are equal, and every answer is exact or an independent
draw. `Posterior.gibbs` gives Markov chains instead. Rows and particles go in blocks, so memory stays bounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppvae.conditioning import export
from ppvae.conditioning.averages import decided, effective, expectation, log_mean_exp, no_mean, summed, weighted_mean
from ppvae.conditioning.blocks import Blocks
from ppvae.conditioning.completion import completed, lifted, prior, put_back, score, story
from ppvae.conditioning.gibbs import Chain, chain, refuse_settings, together
from ppvae.conditioning.staged import Function
from ppvae.door import Table, enter
from ppvae.errors import Problem, refuse_count
from ppvae.pair import Pair
from ppvae.tracing.hidden import goes_on
from ppvae.tracing.terms import refuse_certain, weights_of
from ppvae.tracing.traces import Traces, run
from ppvae.unfit import refuse_contradicted

if TYPE_CHECKING:  # it takes long to import
    from xarray import DataTree

__all__ = ["Posterior", "condition"]


def condition(pair: Pair, x: Any, mask: Any = None) -> Posterior:
    """Condition a pair on rows of data, as it stands.

    Args:
        pair: fitted, or not.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping by name.
        mask: True = observed.
    """
    table = enter(pair, x, mask)
    refuse_contradicted(pair, table)
    return Posterior(pair, table)


class Posterior(Blocks):
    """p(latents, missing | observed) of each row, by the pair's guide and importance weights. Made by `condition`.

    Attributes:
        global_latents: the latents outside the data plate; with one, no row has a weight of its own.
    """

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
        refuse_count("particles", particles)
        particles = 1 if self.pair.exact else particles
        with self.evaluating():
            return torch.cat(
                [
                    log_mean_exp([self.log_weights(rows, block) for block in blocks])
                    for rows, blocks in self.blocks(particles)
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
        refuse_count("draws", draws)
        with self.evaluating():
            parts = [self.resampled(rows, draws, particles) for rows in self.row_blocks(self._pool(draws, particles))]
        if not parts[0]:
            raise Problem(
                "the pair has no latents", "it was made without a guide", "log_evidence() and impute() still work"
            )
        return {name: self._together(name, parts) for name in parts[0] if not self.pair.hides(name)}

    def impute(self, draws: int = 20, particles: int | None = None, entry: str = "x") -> Tensor:
        """Draw complete rows, (S, N, D): observed entries unchanged, missing ones from p(x_m | x_o).

        Latents by sampling-importance-resampling (Mattei & Frellsen 2019, section 3.3), then x from the story.

        Args:
            draws: S.
            particles: as in `sample`.
            entry: what of the data is completed, a site of the story: x, or labels or attributes beside it.
        """
        refuse_count("draws", draws)
        self._refuse_entry(entry)
        with self.evaluating():
            blocks = self.row_blocks(self._pool(draws, particles))
            return torch.cat([self._completed(rows, draws, particles, entry) for rows in blocks], 1)

    def gibbs(
        self, draws: int = 25, burn_in: int = 100, gap: int = 10, metropolis: bool = True, means: bool = False
    ) -> Chain:
        r"""Draw latents and complete rows from p(z, x_m | x_o) by one Markov chain a row (`ppvae.conditioning.gibbs`).

        .. math:: z' \sim q(z | x), \quad \min\{1, \tfrac{p(x, z')\, q(z | x)}{q(z' | x)\, p(x, z)}\}, \quad x_m \sim p(x_m | z)

        Where few of the guide's draws carry all of the weight, a chain goes on until it has lost them. It starts from one
        draw as of `impute`; its draws depend on one another, the less the larger ``gap``. A small ``acceptance`` says that
        it hardly moves: more steps, or a better guide.

        Args:
            draws: S, kept after ``burn_in + gap``, ``burn_in + 2 gap``, … steps.
            burn_in: steps before the first gap; 0 starts at once.
            gap: steps from one draw to the next.
            metropolis: accept by the ratio above; False keeps every proposal (pseudo-Gibbs), which is exact only
                where the guide is exact on complete rows.
            means: each missing entry is E[x_m | z'] instead of a draw (Nash & Williams 2017, section 5.2), where its noise is not
                what one wants to see or to go on from; with ``metropolis=False`` only, and of no law that is known.

        Raises:
            Problem: a global latent, dependent features, data that hang on x, a guide without a density.
        """
        refuse_settings(self.global_latents, draws, burn_in, gap, metropolis, means)
        self._refuse_no_x()
        with self.evaluating():
            parts = [
                chain(self.pair, rows, *Posterior(self.pair, rows)._start(), draws, burn_in, gap, metropolis, means)
                for rows in self.row_blocks(1)
            ]
        return together(parts)

    def impute_mean(self, particles: int = 100, entry: str = "x") -> Tensor:
        r"""Complete the rows by E[x_m | x_o], (N, D), observed entries unchanged.

        .. math:: \sum_p w_p\, E[x | z_p] / \sum_p w_p, \quad w_p = p(x_o, z_p) / q(z_p | x)

        (Mattei & Frellsen 2019, eq. 9-10: each draw of z gives its mean of x, not a draw of x.) Codes of classes have no
        mean: in a `ppvae.nn.columns.Columns` the probabilities of classes are averaged, and a hole gets the most probable
        class of a categorical column, the median class of an ordinal one.

        Args:
            particles: P.
            entry: as in `impute`.
        """
        refuse_count("particles", particles)
        self._refuse_entry(entry)
        with self.evaluating():
            return torch.cat([self._mean(rows, blocks, entry) for rows, blocks in self.blocks(particles)])

    def diagnostics(self, particles: int = 1000) -> dict[str, Tensor]:
        """Say how far each row's importance weights can be trusted.

        Returns:
            ``ess`` (N,): the effective number of draws among ``particles``, (sum w)^2 / sum w^2. ``pareto_k`` (N,): the
            tail index of the weights (Vehtari et al. 2024): above min(1 - 1/log10 P, 0.7) the estimates of that row are not
            to be trusted; -inf where all weights are equal.
        """
        refuse_count("particles", particles)
        with self.evaluating():
            parts = [
                torch.cat([self.log_weights(rows, block) for block in blocks])
                for rows, blocks in self.blocks(particles)
            ]
        weights = torch.cat(parts, 1)  # (P, N)
        return {"ess": effective(weights), "pareto_k": export.pareto_k(weights)}

    def log_weights(self, rows: Table, particles: int) -> Tensor:
        """log p(x_o, z) - log q(z) of draws of the guide for a block of the rows, (P, n)."""
        return self.block(self._weights, rows, particles)[0]

    def to_datatree(self, draws: int = 100) -> DataTree:
        """Put draws into an xarray.DataTree whose groups are named as ArviZ names them.

        posterior (latents), posterior_predictive (completed rows), prior and prior_predictive (the story's own draws),
        log_likelihood (per entry of x given the latents, no more; 0 where missing), observed_data (NaN where missing), constant_data (the mask) and
        sample_stats (ess and Pareto k of 1,000 weights a row). ``.to_netcdf(path)`` writes it; ``arviz.from_netcdf(path)``
        reads it.

        Args:
            draws: S.
        """
        refuse_count("draws", draws)
        self._refuse_no_x()
        latents, complete, scores, priors = [], [], [], []
        with self.evaluating():
            for rows in self.row_blocks(self._pool(draws, None)):
                latents.append(self.resampled(rows, draws, None))
                site = story(self.pair, rows, latents[-1], draws)
                complete.append(put_back(rows, site["value"].expand(draws, len(rows), -1)))
                scores.append(score(rows, site["fn"], draws))
                priors.append(prior(self.pair, rows, draws))
        x = self.table.values["x"]
        simulated = {name: self._together(name, priors) for name in latents[0] if not self.pair.hides(name)}
        return export.datatree(
            {name: self._together(name, latents) for name in simulated},
            torch.cat(complete, 1),
            torch.cat(scores, 1),
            x,
            self.table.masks.get("x", torch.ones((), dtype=torch.bool, device=x.device)).expand(x.shape),
            {**simulated, "x": torch.cat([part["x"] for part in priors], 1)},
            {} if self.global_latents else self.diagnostics(),
        )

    def to_netcdf(self, path: str | Path, draws: int = 100) -> None:
        """Write `to_datatree` as one netCDF file, a block of rows in memory at a time; whole or not at all.

        Args:
            path: the file; replaced if it exists.
            draws: S.
        """
        refuse_count("draws", draws)
        self._refuse_no_x()
        blocks = self.row_blocks(self._pool(draws, None))
        export.write(path, (Posterior(self.pair, rows).to_datatree(draws) for rows in blocks), len(self.table))

    def __repr__(self) -> str:
        missing = sum(int((~m).sum()) for m in self.table.masks.values())
        return f"Posterior({len(self.table)} rows, {missing} entries missing, {'exact' if self.pair.exact else 'by importance weights'})"

    # --- one block ------------------------------------------------------------------------------------

    @property
    def _unweighted(self) -> bool:
        """Whether the guide's draws stand as they are: they are the posterior's, or have no weight of a row."""
        return self.pair.exact or bool(self.global_latents)

    def _pool(self, draws: int, particles: int | None) -> int:
        if self._unweighted:
            return draws
        if particles is not None:
            refuse_count("particles", particles)
        return max(100, 10 * draws) if particles is None else max(particles, draws)

    def _weights(self, rows: Table, particles: int) -> list[Tensor]:
        traces = run(self.pair, rows, particles)
        refuse_certain(traces)
        return [weights_of(traces)]

    def resampled(self, rows: Table, draws: int, particles: int | None) -> dict[str, Tensor]:
        """Draws of each latent of a block of rows, (S, n, 1) + event, a global one (S, 1, 1) + event; as `sample` has them."""
        parts = [self.block(self._drawn, rows, part) for part in self.parts(self._pool(draws, particles))]
        weights, *found = (torch.cat(part) for part in zip(*parts, strict=True))
        values = dict(zip(self._names, found, strict=True))
        if self._unweighted:
            return values
        chosen = torch.multinomial(weights.T.softmax(1), draws, replacement=True).T  # (S, n)
        each = torch.arange(len(rows), device=chosen.device)
        return {name: value[chosen, each] for name, value in values.items()}

    def _drawn(self, rows: Table, particles: int) -> list[Tensor]:
        """The log-weights (P, n) of draws, zeros where none are asked for, and each latent, (P, n, 1) + event."""
        traces = run(self.pair, rows, particles, enumerate=False)
        self._refuse_unweighted(traces)
        # An auxiliary site is no latent of the story.
        own = {name: site for name, site in traces.drawn() if name in traces.model.nodes}
        latents = {**own, **{n: s for n, s in traces.left() if n != "x"}}
        latents |= {name: site for name, site in traces.scored() if goes_on(site)}
        self._names = list(latents)
        values = [lifted(site) for site in latents.values()]
        x = next(iter(rows.values.values()))
        return [x.new_zeros(particles, len(rows)) if self._unweighted else weights_of(traces), *values]

    def _completed(self, rows: Table, draws: int, particles: int | None, entry: str) -> Tensor:
        def complete(rows: Table, draws: int) -> list[Tensor]:
            return [completed(self.pair, rows, self.resampled(rows, draws, particles), draws, entry)]

        return self.in_halves(complete, rows, draws)[0]

    def _start(self) -> tuple[Tensor, dict[str, Tensor]]:
        """One complete row each, (N, D), and its latents, (N, 1) + event."""
        x, latents = [], []
        for rows in self.row_blocks(self._pool(1, None)):
            latents.append(self.resampled(rows, 1, None))
            x.append(completed(self.pair, rows, latents[-1], 1))
        return torch.cat(x, 1)[0], {name: torch.cat([part[name] for part in latents], 1)[0] for name in latents[0]}

    def _together(self, name: str, parts: list[dict[str, Tensor]]) -> Tensor:
        """One tensor of blocks of rows, without the dims that only plates need."""
        if name in self.global_latents:
            (part,) = parts
            return part[name].reshape(len(part[name]), *self.pair.sites()[name]["fn"].event_shape)
        return torch.cat([part[name] for part in parts], 1).squeeze(2)

    def _mean(self, rows: Table, blocks: list[int], entry: str) -> Tensor:
        expected = self._expected(entry)
        parts = [self.block(expected, rows, block) for block in blocks]
        if any(means.isnan().any() and not weights.isnan().any() for means, weights in parts):
            raise no_mean(self.pair.sites()[entry]["fn"])
        return put_back(rows, decided(self.pair.sites()[entry]["fn"], weighted_mean(parts)), entry)

    def _refuse_unweighted(self, traces: Traces) -> None:
        if self.global_latents and any(goes_on(site) for _, site in traces.scored()):
            raise Problem(
                f"the latent {min(self.global_latents)!r} is global, and the story goes on from what is missing",
                "all rows share it, so no row has a weight, and without weights nothing says why entries are missing",
                "NUTS on the story",
            )

    def _refuse_no_x(self) -> None:
        if "x" not in self.table.values:
            raise Problem(
                "the data have no entry 'x'",
                "a chain and a file of draws complete x",
                f"beside what is known, x of NaN: {{'x': torch.full(({len(self.table)}, D), torch.nan), …}}",
            )

    def _refuse_entry(self, entry: str) -> None:
        data = [name for name in self.pair.sites(self.table.values) if name in self.pair.entries]
        if entry not in data:
            raise Problem(
                f"there is no entry {entry!r} to complete",
                "a misspelt name, or a covariate: given, never drawn",
                f"one of: {', '.join(data)}",
            )

    def _expected(self, entry: str) -> Function:
        def expected(rows: Table, particles: int) -> list[Tensor]:
            """E[x | z] of draws under their weights, (1, n, D), and the log of all their weight, (1, n)."""
            traces = run(self.pair, rows, particles, enumerate=False)
            self._refuse_unweighted(traces)
            x = traces.model.nodes[entry]
            if goes_on(x) and hasattr(x["fn"], "averaged"):
                raise no_mean(x["fn"])
            # Where the story goes on from what is missing, a weight belongs to that draw of it, not to its mean.
            values = (x["value"] if goes_on(x) else expectation(x["fn"])).expand(particles, len(rows), -1)
            weights = values.new_zeros(values.shape[:2]) if self.global_latents else weights_of(traces)
            return list(summed(values, weights.to(values)))

        expected.__name__ = f"expected {entry}"  # blocks are staged by name
        return expected
