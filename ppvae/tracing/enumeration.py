"""Sum discrete sites out, row by row.

Sites marked ``infer={"enumerate": "parallel"}`` hold every value of theirs along a dim of their own, to the left
of particles. The sums are Pyro's tensor variable elimination (Obermeyer et al. 2019), in which rows and particles
are kept as free dims and only the feature plate is a product: a latent inside the feature plate is summed before
the features are multiplied, and `pyro.markov` chains cost what they should.

A site that is observed in some rows (`ppvae.tracing.traces.Seen`) holds equal copies of the observed value along its dim;
each copy weighs 1 / C.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from typing import Any, TypeAlias

import torch
from opt_einsum import get_symbol
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from ppvae.errors import Caution, Problem
from ppvae.tracing.logspace import Ring, aligned
from ppvae.tracing.traces import DATA_DIM, PARTICLE_DIM, Traces, added, enumerated, is_global, seen_rows

Packed: TypeAlias = Any  # a tensor that names its dims, in `_pyro_dims` (`pyro.ops.packed`)
Factors = list[tuple[frozenset, Packed]]  # (plates over which it is a product, log-probability)


def expected(traces: Traces) -> tuple[Tensor, dict[str, Tensor]]:
    """E_q of the ELBO's terms: (likelihood (N,), kl by site (N,)), averaged over particles."""
    likelihood, kl = expected_each(traces)
    return likelihood.mean(0), {name: value.mean(0) for name, value in kl.items()}


def expected_each(traces: Traces) -> tuple[Tensor, dict[str, Tensor]]:
    """E_q of the ELBO's terms of every particle's draws: (likelihood (P, N), kl by site (P, N)).

    Sites that only the story enumerates are summed out of the likelihood; those of the guide are averaged
    under q: sum_y q(y) [log p - log q].
    """
    symbols = _Symbols(traces)
    _refuse_reused_dims(traces)
    _refuse_shared_sums(symbols)
    latents = [name for name, _ in traces.drawn()]
    own = [(name, site) for name, site in traces.scored() if name not in latents]
    touching, plain = symbols.split([symbols.factor(site) for _, site in own])
    # a factor of a guide's latent may depend on what the story alone enumerates: it belongs to that sum
    kl: dict[str, Tensor] = {}
    for name, site in traces.drawn():
        log_q = _unseen(symbols.factor(site)[1], site)
        kl[name] = symbols.expectation(log_q)
        twin = traces.model.nodes.get(name)
        if twin is not None:
            ordinal, log_p = symbols.factor(twin)
            if symbols.summed & set(log_p._pyro_dims):
                touching.append((ordinal, log_p))
            else:
                kl[name] = kl[name] - symbols.expectation(log_p)
    terms = [term for _, term in plain] + [term for _, term in symbols.contract(touching, symbols.summed)]
    likelihood = added(symbols.expectation(term) for term in terms) + symbols.copies(guide=False)
    return likelihood, kl


def summed(traces: Traces) -> Tensor:
    """log sum_y p(x, y, z) / q(z | y) of every particle and row, (P, N).

    An unbiased weight whatever q(y) is: q(y) does not appear, and gets no gradient from it.
    """
    symbols = _Symbols(traces)
    factors = [symbols.factor(site) for _, site in traces.scored()]
    ignored = []
    for name, site in traces.drawn():
        if enumerated(site):
            ignored.append(name)
        else:
            ordinal, log_q = symbols.factor(site)
            factors.append((ordinal, packed.neg(_unseen(log_q, site))))
    if ignored and torch.is_grad_enabled():
        warnings.warn(
            f"{', '.join(map(repr, ignored))} enumerated in the guide: the importance-weighted bound sums it "
            "out under the story, so the guide's probabilities of it get no gradient. Use ppvae.elbo() to train "
            "them, or leave the site out of the guide.",
            Caution,
            stacklevel=2,
        )
    touching, plain = symbols.split(factors, everything=True)
    terms = [term for _, term in plain] + [term for _, term in symbols.contract(touching, symbols.all)]
    return added(symbols.particles_rows(term) for term in terms) + symbols.copies(guide=True)


class _Symbols:
    """Pyro's names for the dims of two traces, and sums over them."""

    def __init__(self, traces: Traces) -> None:
        self.traces = traces
        for trace in (traces.guide, traces.model):
            trace.compute_log_prob()  # masked; `ppvae.tracing.traces` refused every scale
        self.plates, by_dim = _plates(traces)
        traces.guide.pack_tensors(self.plates)
        traces.model.pack_tensors(self.plates)
        self.row, self.particle = by_dim.get(DATA_DIM), by_dim.get(PARTICLE_DIM)
        self.guide_sites = [site for _, site in traces.drawn() if enumerated(site)]
        self.story_sites = [s for n, s in traces.scored() if enumerated(s) and n not in traces.guide.nodes]
        self.averaged = {site["infer"]["_enumerate_symbol"] for site in self.guide_sites}
        self.summed = {site["infer"]["_enumerate_symbol"] for site in self.story_sites}
        self.all = self.averaged | self.summed
        self.within = {
            site["infer"]["_enumerate_symbol"]: self.ordinal(site) for site in self.guide_sites + self.story_sites
        }

    def ordinal(self, site: dict[str, Any]) -> frozenset:
        """The plates over which the site's factors are multiplied: those of the features."""
        plates = {self.plates[frame.name] for frame in site["cond_indep_stack"] if frame.vectorized}
        return frozenset(plates - {self.row, self.particle})

    def factor(self, site: dict[str, Any]) -> tuple[frozenset, Packed]:
        factor = self.ordinal(site), site["packed"]["log_prob"]
        self._refuse_mixed(*factor, f"the site {site['name']!r}")
        return factor

    def split(self, factors: Factors, everything: bool = False) -> tuple[Factors, Factors]:
        dims = self.all if everything else self.summed
        touching = [f for f in factors if dims & set(f[1]._pyro_dims)]
        return touching, [f for f in factors if not dims & set(f[1]._pyro_dims)]

    def contract(self, factors: Factors, dims: set[str]) -> Factors:
        if not factors:
            return []
        tree: OrderedDict[frozenset, list[Packed]] = OrderedDict()
        for ordinal, term in factors:
            tree.setdefault(ordinal, []).append(term)
        contracted = contract_tensor_tree(tree, set(dims), ring=Ring())
        sums = [(ordinal, term) for ordinal, terms in contracted.items() for term in terms]
        for ordinal, term in sums:
            self._refuse_mixed(ordinal, term, "a sum over what the story alone enumerates")
        return sums

    def expectation(self, term: Packed) -> Tensor:
        """E_q over the guide's enumerated sites that the term depends on, (P, N)."""
        needed = self.averaged & set(term._pyro_dims)
        weights: list[Packed] = []
        grown = True
        used: set[str] = set()
        while grown:  # q(y2 | y1) brings y1 in
            grown = False
            for site in self.guide_sites:
                symbol = site["infer"]["_enumerate_symbol"]
                if symbol in needed and symbol not in used:
                    log_q = _copies_weigh(site["packed"]["log_prob"], site)
                    weights.append(log_q)
                    used.add(symbol)
                    needed |= self.averaged & set(log_q._pyro_dims)
                    grown = True
        dims = "".join(sorted({*term._pyro_dims, *(d for w in weights for d in w._pyro_dims)}))
        value = aligned(term, term._pyro_dims, dims)
        if weights:
            weight = added(aligned(w, w._pyro_dims, dims) for w in weights).exp()
            value = torch.where(weight > 0, value, 0.0) * weight  # 0 log 0 = 0: what q excludes has log q = -inf
        keep = {self.row, self.particle}
        return self._rows(_sum_out(value, dims, keep), [d for d in dims if d in keep])

    def particles_rows(self, term: Packed) -> Tensor:
        keep = [d for d in term._pyro_dims if d in (self.row, self.particle)]
        return self._rows(_sum_out(term, term._pyro_dims, set(keep)), keep)

    def _rows(self, value: Tensor, dims: list[str]) -> Tensor:
        if dims == [self.row, self.particle]:
            value = value.T
        shape = [self.traces.particles if self.particle in dims else 1, self.traces.rows if self.row in dims else 1]
        return value.reshape(shape).expand(self.traces.particles, self.traces.rows)

    def copies(self, guide: bool) -> Tensor | float:
        """-log C in the rows where a summed site was observed: its C copies are one value, (N,)."""
        total: Tensor | float = 0.0
        for site in self.story_sites + (self.guide_sites if guide else []):
            seen = seen_rows(site)
            if seen is not None:  # (N, 1), or (N, D) inside the feature plate
                entries = seen.expand(self.traces.rows, _features(site))
                total = total - entries.sum(-1) * math.log(_values(site))
        return total

    def _refuse_mixed(self, ordinal: frozenset, term: Packed, what: str) -> None:
        """A term that holds a latent of each feature must itself stand inside that plate: a product over the features
        has C^D values, and multiplying along one dim would take the latent for one that all features share."""
        if any(not self.within[symbol] <= ordinal for symbol in self.all & set(term._pyro_dims)):
            raise Problem(
                f"{what} mixes an enumerated latent of each feature over the features",
                "what depends on all of them at once takes every combination of their values, C^D",
                "put it inside the feature plate, enumerate the features' latents in the story alone, or make "
                "them one latent of the row",
            )


def _plates(traces: Traces) -> tuple[dict[str, str], dict[int, str]]:
    """Symbols of the plates, by name and by dim. What they are called does not matter: rows stand at dim -2."""
    sites = [*traces.guide.nodes.values(), *traces.model.nodes.values()]
    frames = {
        frame for site in sites if site["type"] == "sample" for frame in site["cond_indep_stack"] if frame.vectorized
    }
    keys = sorted({(frame.dim, frame.size) for frame in frames})
    symbol = {key: get_symbol(2 * i) for i, key in enumerate(keys)}  # even ones: Pyro gives the odd ones to the sites
    return (
        {frame.name: symbol[frame.dim, frame.size] for frame in frames},
        {dim: symbol[dim, size] for dim, size in keys},
    )


def _features(site: dict[str, Any]) -> int:
    return next((frame.size for frame in site["cond_indep_stack"] if frame.dim == -1), 1)


def _values(site: dict[str, Any]) -> int:
    return site["fn"].enumerate_support(expand=False).shape[0]


def _sum_out(value: Tensor, dims: str, keep: set[str | None]) -> Tensor:
    out = [i for i, d in enumerate(dims) if d not in keep]
    return value.sum(out) if out else value  # sum([]) would be the sum over all dims


def _unseen(log_q: Packed, site: dict[str, Any]) -> Packed:
    return _where_seen(0.0, log_q, site)


def _copies_weigh(log_q: Packed, site: dict[str, Any]) -> Packed:
    return _where_seen(-math.log(_values(site)), log_q, site)


def _where_seen(value: float, log_q: Packed, site: dict[str, Any]) -> Packed:
    seen = seen_rows(site)
    if seen is None:
        return log_q
    names = site["infer"]["_dim_to_symbol"]
    seen, log_q = packed.broadcast_all(packed.pack(seen, names), log_q)
    result: Packed = torch.where(seen, value, log_q)
    result._pyro_dims = log_q._pyro_dims
    return result


def _refuse_shared_sums(symbols: _Symbols) -> None:
    for site in symbols.story_sites:
        if is_global(site):
            raise Problem(
                f"the story enumerates the global latent {site['name']!r}",
                "all rows share it: its sum stands outside their product, and no row has a term of its own",
                "enumerate it in the guide too: pyro.sample(…, infer={'enumerate': 'parallel'})",
            )


def _refuse_reused_dims(traces: Traces) -> None:
    dims = [site["infer"]["_enumerate_dim"] for _, site in traces.drawn() if enumerated(site)]
    if len(set(dims)) < len(dims):
        raise Problem(
            "the guide enumerates a pyro.markov chain",
            "its sites share dims, and averages under q would mix them up",
            "leave the chain out of the guide: enumerated in the story alone it is summed out exactly",
        )
