r"""Markov chains over a row's latents and its missing entries, all rows moved together.

A step proposes z' from the guide on the completed row, keeps or refuses it, and draws the missing entries anew:

    z' ~ q(z | x_o, x_m),   x_m ~ p(x_m | z)

Kept always, this is pseudo-Gibbs: its stationary law is p(z, x_m | x_o) only where the guide is exact on complete
rows. Kept with probability min(1, r'/r), r = p(x, z) / q(z | x) at the same completed row, it is
Metropolis-within-Gibbs: the law is exact for any guide that reaches wherever the posterior does.

Where E[x_m | z] stands for the draw of x_m, as where noise would hide the shape of what is completed, no law is claimed.

References: Rezende, Mohamed & Wierstra 2014, appendix F; Mattei & Frellsen 2018, algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppvae.conditioning.averages import expectation
from ppvae.conditioning.completion import put_back
from ppvae.door import Table
from ppvae.errors import Problem
from ppvae.pair import Pair
from ppvae.tracing.hidden import refuse_hidden
from ppvae.tracing.terms import is_point, reparametrised, weights_of
from ppvae.tracing.traces import Traces, log_prob, run


@dataclass(frozen=True)
class Chain:
    """What one Markov chain a row has visited.

    Attributes:
        x: complete rows (S, N, D); observed entries unchanged.
        latents: each latent by name, (S, N, K).
        acceptance: the mean probability with which a proposal was accepted after the burn-in, (N,); ones for pseudo-Gibbs.
    """

    x: Tensor
    latents: dict[str, Tensor]
    acceptance: Tensor


def chain(
    pair: Pair,
    rows: Table,
    x: Tensor,
    latents: dict[str, Tensor],
    draws: int,
    burn_in: int,
    gap: int,
    metropolis: bool,
    means: bool,
) -> Chain:
    """Run the chain of every row, ``burn_in + draws * gap`` steps, of which each gap's last is kept.

    Args:
        pair: in eval mode.
        rows: what was observed.
        x: the complete rows to start from, (N, D).
        latents: those to start from by name, (N, 1) + event.
        draws, burn_in, gap, metropolis, means: as in `ppvae.Posterior.gibbs`.
    """
    _refuse(pair, rows, x, latents, metropolis)
    kept, accepted = [], torch.zeros_like(x[:, 0])
    for step in range(1, burn_in + draws * gap + 1):
        proposal = run(pair, _complete(rows, x), enumerate=False)
        drawn, found, chance = _x(proposal, means), _latents(proposal), torch.ones_like(accepted)
        if metropolis:
            current = run(pair, _complete(rows, x), enumerate=False, at=latents)
            chance = (weights_of(proposal) - weights_of(current))[0].clamp(max=0.0).exp()  # (N,)
            accept = torch.rand_like(chance) < chance
            drawn = torch.where(accept[:, None], drawn, _x(current))
            found = {name: _choose(accept, value, latents[name]) for name, value in found.items()}
        x, latents = put_back(rows, drawn), found
        if step > burn_in:
            accepted = accepted + chance
            if (step - burn_in) % gap == 0:
                kept.append((x, latents))
    return Chain(
        torch.stack([x for x, _ in kept]),
        {name: torch.stack([values[name] for _, values in kept]).squeeze(2) for name in latents},
        accepted / (draws * gap),
    )


def together(parts: list[Chain]) -> Chain:
    """The chains of blocks of rows as one."""
    return Chain(
        torch.cat([part.x for part in parts], 1),
        {name: torch.cat([part.latents[name] for part in parts], 1) for name in parts[0].latents},
        torch.cat([part.acceptance for part in parts]),
    )


def refuse_settings(
    global_latents: set[str], draws: int, burn_in: int, gap: int, metropolis: bool, means: bool
) -> None:
    """Refuse what no chain can do, before any is run."""
    if means and metropolis:
        raise Problem(
            "means are asked for of a chain that accepts and refuses",
            "its ratio holds for draws of the missing entries, not for their means",
            "gibbs(metropolis=False, means=True)",
        )
    for name, count, least in (("draws", draws, 1), ("burn_in", burn_in, 0), ("gap", gap, 1)):
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise Problem(
                f"{name} is {count!r}",
                f"draws and steps are counted: {name} is a whole number of at least {least}",
                "gibbs(draws=25, burn_in=100, gap=10)",
            )
    if global_latents:
        raise Problem(
            f"the latent {min(global_latents)!r} is global: it stands outside the data plate",
            "all rows share it, and a chain of one row cannot move it",
            "impute(), whose draws of it are the guide's; or NUTS on the story",
        )


def _complete(rows: Table, x: Tensor) -> Table:
    masks = {name: mask for name, mask in rows.masks.items() if name != "x"}
    return replace(rows, values={**rows.values, "x": x}, masks=masks)


def _x(traces: Traces, means: bool = False) -> Tensor:
    """A draw of every entry of x from the story, or its mean, given the latents of the traces, (N, D)."""
    law = traces.model.nodes["x"]["fn"]
    return (expectation(law) if means else law.sample()).expand(traces.rows, -1)


def _latents(traces: Traces) -> dict[str, Tensor]:
    """Every latent, (N, 1) + event: the guide's, and those it leaves to the story."""
    return {name: site["value"] for name, site in [*traces.drawn(), *traces.left()]}


def _choose(accept: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accept.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _refuse(pair: Pair, rows: Table, x: Tensor, latents: dict[str, Tensor], metropolis: bool) -> None:
    refuse_hidden(pair, rows)
    traces = run(pair, _complete(rows, x), enumerate=False, at=latents)
    point = [n for n, site in traces.drawn() if site["infer"].get("is_auxiliary") or is_point(site["fn"])]
    if metropolis and point:
        raise Problem(
            f"the guide makes {point[0]!r} from other draws, or without chance",
            "a chain needs log q of the latents it stands at, under the row it has just completed",
            "gibbs(metropolis=False), whose law is exact only where the guide is; or impute(), by importance weights",
        )
    discrete = [name for name, site in traces.drawn() if not reparametrised(site)]
    if discrete and getattr(traces.model.nodes["x"]["fn"], "has_points", False):
        raise Problem(
            f"complete rows say what the latent {discrete[0]!r} is",
            "a chain completes its rows, and would never leave the value that it starts with",
            f"give {discrete[0]!r}; or impute(), by importance weights",
        )
    changed = run(pair, _complete(rows, put_back(rows, _x(traces))), enumerate=False, at=latents)
    for name, site in traces.scored():
        twin = changed.model.nodes[name]
        before, after = (s["fn"].log_prob(x) if name == "x" else log_prob(s) for s in (site, twin))
        if not torch.equal(before, after):
            raise Problem(
                f"the story's {name!r} depends on what stands at missing entries of x",
                "the story goes on from x: its missing entries are then not drawn from p(x_m | z) alone",
                "impute(), by importance weights",
            )
