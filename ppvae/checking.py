"""The guard rails: what goes silently wrong in a pair, found on one batch and said with its remedy.

Pyro validates shapes against plates, but not at dim -2, not what a mask covers, not whether a guide's draw belongs
to the story. Each check here is one such trap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppvae.door import Table, enter
from ppvae.errors import Problem, own_words
from ppvae.pair import Pair
from ppvae.tracing.terms import elbo_terms, weights_of
from ppvae.tracing.traces import Traces, enumerated, is_global, log_prob, run


def check(pair: Pair, x: Any, mask: Any = None, objective: Callable[..., Tensor] | None = None) -> None:
    """Hold a pair and one batch of data to the guard rails.

    The sites of story and guide match; every latent's log-probability is (…, N, 1) and that of x (…, N, D), with
    and without particles; the mask is around x and nothing else, and the story reads nothing that fills a gap; a
    row's log-weight depends on that row alone; an exact guide's log-weights do not vary; a finite gradient reaches
    every parameter; Pyro's own validation passes.

    Args:
        pair: the pair; it is left as it was, generators included.
        x: a batch of data, as in `ppvae.fit`; two rows or more show the most.
        mask: True = observed.
        objective: whose gradient must reach every parameter; None: `ppvae.elbo`'s.

    Raises:
        Problem: what was seen and where, the likely cause, what to try.
    """
    with _as_found(pair), pyro.validation_enabled(True), own_words():
        table = enter(pair, x, mask)
        one, several = run(pair, table), run(pair, table, particles=2)
        _sites_match(one, pair.entries)
        for traces in (one, several):
            _shapes(traces)
        _mask_reaches(one, table)
        if pair.takes_mask("x") and "x" in table.values and "x" not in table.masks:  # where does the mask reach?
            ones = torch.ones_like(table.values["x"], dtype=torch.bool)
            run(pair, Table(table.values, {**table.masks, "x": ones}, table.total))
        _fill_is_not_read(pair, table, one)
        local = not any(is_global(site) for _, site in [*one.drawn(), *one.scored()])
        if local and len(table) > 1:
            _rows_are_independent(pair, table)
        if pair.exact:
            _exact_is_exact(pair, table)
        _gradients_arrive(pair, table, objective)


def _sites_match(traces: Traces, entries: dict[str, bool]) -> None:
    """Each latent has a guide; an entry of the data that is absent is generated, not inferred."""
    for name, site in traces.left():
        if name not in entries and not site["infer"].get("is_auxiliary"):
            raise Problem(
                f"the guide has no site for the latent {name!r}",
                "it was forgotten, or is spelt otherwise in the guide: "
                "it would be drawn from the prior, whatever the data say",
                f"draw {name!r} in the guide; to leave it to the story on purpose: infer={{'is_auxiliary': True}} there; "
                "if it is discrete: infer={'enumerate': 'parallel'} there",
            )


def _shapes(traces: Traces) -> None:
    N = traces.rows
    lead = 3 if traces.particles > 1 else 2
    for name, site in [*traces.drawn(), *traces.scored()]:
        if is_global(site):
            continue
        shape = tuple(log_prob(site).shape)
        features = [f.size for f in site["cond_indep_stack"] if f.dim == -1]
        wanted = (N, features[0] if features else 1)
        if shape[-2:] != wanted or (len(shape) > lead and not _touches_enumeration(traces)):
            raise Problem(
                f"the log-probability of {name!r} has shape {shape}, where (…, {wanted[0]}, {wanted[1]}) belongs",
                "a forgotten .to_event(1), a dim that was not kept, or a network that does not broadcast over "
                "leading dims"
                if not features
                else "parameters that do not broadcast over rows and features",
                "latents are events of batch (N, 1): dist.Normal(loc, scale).to_event(1) with loc (N, 1, K); "
                "x is (N, D) under the feature plate; wrap convolutions in ppvae.nn.rows",
            )
    if traces.particles == 1:
        return
    for name, site in traces.drawn():
        if not is_global(site) and not enumerated(site) and site["fn"].batch_shape[-3:-2] != (traces.particles,):
            raise Problem(
                f"the latent {name!r} has one draw for all particles",
                "a guide that expands its own shape",
                "let the plates set the batch shape",
            )


def _touches_enumeration(traces: Traces) -> bool:
    return any(enumerated(site) for _, site in [*traces.drawn(), *traces.scored()])


def _mask_reaches(traces: Traces, table: Table) -> None:
    for name, mask in table.masks.items():
        site = traces.model.nodes.get(name)
        if site is not None and site["is_observed"] and not isinstance(site["mask"], Tensor):
            raise Problem(
                f"{int((~mask).sum())} entries of {name!r} are missing and the story does not mask them",
                "what fills them would be scored as data",
                f"with poutine.mask(mask=mask): around the sample statement of {name!r}",
            )


def _fill_is_not_read(pair: Pair, table: Table, traces: Traces) -> None:
    """Fill the gaps with other values: given the guide's draws, no density of the story may move."""
    masked = [name for name in table.masks if pair.takes_mask(name) and name in pair.sites(table.values)]
    if not masked:
        return
    before, kept = _story_scores(pair, table, traces), dict(pair._fills)
    try:
        pair._fills |= {name: _another(pair.sites(table.values)[name]) for name in masked}
        after = _story_scores(pair, table, traces)
    finally:
        pair._fills = kept
    for name, score in before.items():
        if not torch.allclose(score, after[name], rtol=1e-4, atol=1e-4):
            names = " or ".join(map(repr, masked))
            raise Problem(
                f"the density of {name!r} depends on what fills missing entries of {names}",
                "the story reads a masked value again: a mask drops a site's own density, and what stands "
                "in the gap goes on as if it had been observed, above the evidence",
                "leave the mask out of the story's parameters: a row's value is then observed where seen "
                "and latent elsewhere; dependent features say features_independent = False",
            )


def _another(site: dict[str, Any]) -> Tensor | float:
    """A value in the site's support that is not the one `Pair.fill` takes."""
    support = getattr(site["fn"].support, "base_constraint", site["fn"].support)
    if support.is_discrete and not support.event_dim:
        return float(getattr(support, "upper_bound", getattr(support, "lower_bound", 0) + 1))
    return site["value"][0]  # a draw


def _story_scores(pair: Pair, table: Table, traces: Traces) -> dict[str, Tensor]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        story = poutine.replay(pair.model, traces.guide)
        trace = poutine.trace(story).get_trace(size=len(table), **table.call(pair))
    return {
        name: log_prob(site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["is_observed"] and not site_is_subsample(site)
    }


def _rows_are_independent(pair: Pair, table: Table) -> None:
    """Change the last row: no other row's log-weight may move."""
    before = _weights(pair, table)
    moved = {name: torch.cat([v[:-1], v[:1]]) for name, v in table.values.items()}
    masks = {name: torch.cat([m[:-1], m[:1]]) for name, m in table.masks.items()}
    after = _weights(pair, Table(moved, masks, table.total))
    differs = (before - after).abs()[:, :-1].amax(0) > 1e-4 * (1 + before.abs()[:, :-1].amax(0))
    if differs.any():
        raise Problem(
            f"changing the last row moves the log-weight of row {int(differs.nonzero()[0])}",
            "the rows are coupled: a graph's nodes or a sequence's steps as rows, or normalisation over the batch",
            "what is coupled is one row (its parts are events or features); LayerNorm instead of BatchNorm",
        )


def _exact_is_exact(pair: Pair, table: Table) -> None:
    weights = _weights(pair, table, particles=5)
    spread = (weights.amax(0) - weights.amin(0)).max()
    if spread > 1e3 * torch.finfo(weights.dtype).eps * (1 + weights.abs().max()):
        raise Problem(
            f"the guide says that it is exact, and a row's log-weights differ by {spread.item():.3g} nats between draws",
            "log p(x, z) - log q(z | x) is the same for every z only under the posterior",
            "drop `guide.exact = True`, or look for the mask in the guide",
        )


def _weights(pair: Pair, table: Table, particles: int = 1) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return weights_of(run(pair, table, particles))


def _untrained(name: str, reached: dict[str, bool]) -> str:
    """The largest module around a parameter of which nothing is reached, or the parameter."""
    parts = name.split(".")
    around = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((m for m in around if not any(on for other, on in reached.items() if other.startswith(f"{m}."))), name)


def _gradients_arrive(pair: Pair, table: Table, objective: Callable[..., Tensor] | None) -> None:
    named = [(name, p) for name, p in pair.named_parameters() if p.requires_grad]
    if not named:
        return
    with torch.enable_grad():
        bound = (objective(pair, table) if objective else elbo_terms(pair, table).elbo).mean()
        if not bound.requires_grad:
            raise Problem("no parameter has a gradient", "the story and the guide do not use their modules", "use them")
        gradients = torch.autograd.grad(bound, [p for _, p in named], allow_unused=True)
    reached = {name: gradient is not None for (name, _), gradient in zip(named, gradients, strict=True)}
    for (name, _), gradient in zip(named, gradients, strict=True):
        if gradient is None:
            raise Problem(
                f"no gradient reaches the parameter {name!r}",
                "the module is not used, the objective does not train it, or a draw without rsample or a .detach() stands "
                "between",
                f"use it, another objective, or freeze it: pair.{_untrained(name, reached)}.requires_grad_(False)",
            )
        if not gradient.isfinite().all():
            raise Problem(
                f"the gradient of {name!r} is not finite",
                "a density at the edge of its support, or columns far from the scale of the model",
                "standardise the columns; look at the site's parameters with poutine.trace",
            )


@contextmanager
def _as_found(pair: Pair) -> Iterator[None]:
    """Run in eval mode, and put mode, buffers and generators back."""
    training, buffers = pair.training, [b.clone() for b in pair.buffers()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    pair.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        pair.train(training)
        for buffer, kept in zip(pair.buffers(), buffers, strict=True):
            buffer.data.copy_(kept)
