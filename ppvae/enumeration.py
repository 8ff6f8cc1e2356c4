"""Sum discrete sites out, row by row.

Sites marked ``infer={"enumerate": "parallel"}`` hold every value of theirs along a dim of their own, to the left
of particles. The sums are Pyro's tensor variable elimination (Obermeyer et al. 2019), in which rows and particles
are kept as free dims and only the feature plate is a product: a latent inside the feature plate is summed before
the features are multiplied, and `pyro.markov` chains cost what they should.

A site that is observed in some rows (`ppvae.traces.Seen`) holds equal copies of the observed value along its dim;
each copy weighs 1 / C.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from typing import Any

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from torch import Tensor

from ppvae.errors import Caution, Problem
from ppvae.traces import Traces, enumerated, seen_rows

Factors = list[tuple[frozenset, Tensor]]  # (plates over which it is a product, packed log-probability)


def expected(traces: Traces) -> tuple[Tensor, dict[str, Tensor]]:
    """E_q of the ELBO's terms: (likelihood (N,), kl by site (N,)).

    Sites that only the story enumerates are summed out of the likelihood; those of the guide are averaged
    under q: sum_y q(y) [log p - log q].
    """
    symbols = _Symbols(traces)
    _refuse_reused_dims(traces)
    latents = [name for name, _ in traces.drawn()]
    own = [(name, site) for name, site in traces.scored() if name not in latents]
    touching, plain = symbols.split([symbols.factor(site) for _, site in own])
    # a factor of a guide's latent may depend on what the story alone enumerates: it belongs to that sum
    kl: dict[str, Tensor] = {}
    for name, site in traces.drawn():
        log_q = _unseen(symbols.factor(site)[1], site, symbols)
        kl[name] = symbols.expectation(log_q)
        twin = traces.model.nodes.get(name)
        if twin is not None:
            ordinal, log_p = symbols.factor(twin)
            if symbols.summed & set(log_p._pyro_dims):
                touching.append((ordinal, log_p))
            else:
                kl[name] = kl[name] - symbols.expectation(log_p)
    terms = [term for _, term in plain] + [term for _, term in symbols.contract(touching, symbols.summed)]
    likelihood = sum(symbols.expectation(term) for term in terms) + symbols.copies(guide=False)
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
            factors.append((ordinal, packed.neg(_unseen(log_q, site, symbols))))
    if ignored and torch.is_grad_enabled():
        warnings.warn(f"{', '.join(map(repr, ignored))} enumerated in the guide: the importance-weighted bound sums it "
                      "out under the story, so the guide's probabilities of it get no gradient. Use ppvae.elbo() to train "
                      "them, or leave the site out of the guide.", Caution, stacklevel=2)
    touching, plain = symbols.split(factors, everything=True)
    terms = [term for _, term in plain] + [term for _, term in symbols.contract(touching, symbols.all)]
    return sum(symbols.particles_rows(term) for term in terms) + symbols.copies(guide=True)


class _Symbols:
    """Pyro's names for the dims of two traces, and sums over them."""

    def __init__(self, traces: Traces) -> None:
        self.traces = traces
        for trace in (traces.guide, traces.model):
            trace.compute_log_prob()  # masked; `ppvae.traces` refused every scale
        traces.guide.pack_tensors()
        traces.model.pack_tensors(traces.guide.plate_to_symbol)
        names = traces.model.plate_to_symbol
        self.row, self.particle = names.get("data"), names.get("particles")
        self.guide_sites = [site for _, site in traces.drawn() if enumerated(site)]
        self.story_sites = [s for n, s in traces.scored() if enumerated(s) and n not in traces.guide.nodes]
        self.averaged = {site["infer"]["_enumerate_symbol"] for site in self.guide_sites}
        self.summed = {site["infer"]["_enumerate_symbol"] for site in self.story_sites}
        self.all = self.averaged | self.summed

    def factor(self, site: dict[str, Any]) -> tuple[frozenset, Tensor]:
        plates = self.traces.model.plate_to_symbol | self.traces.guide.plate_to_symbol
        ordinal = {plates[f.name] for f in site["cond_indep_stack"] if f.vectorized} - {self.row, self.particle}
        return frozenset(ordinal), site["packed"]["log_prob"]

    def split(self, factors: Factors, everything: bool = False) -> tuple[Factors, Factors]:
        dims = self.all if everything else self.summed
        touching = [f for f in factors if dims & set(f[1]._pyro_dims)]
        return touching, [f for f in factors if not dims & set(f[1]._pyro_dims)]

    def contract(self, factors: Factors, dims: set[str]) -> Factors:
        if not factors:
            return []
        tree: OrderedDict[frozenset, list[Tensor]] = OrderedDict()
        for ordinal, term in factors:
            tree.setdefault(ordinal, []).append(term)
        return [(o, term) for o, terms in contract_tensor_tree(tree, set(dims)).items() for term in terms]

    def expectation(self, term: Tensor) -> Tensor:
        """E_q over the guide's enumerated sites that the term depends on, (N,), averaged over particles."""
        needed = self.averaged & set(term._pyro_dims)
        weights: list[Tensor] = []
        grown = True
        used: set[str] = set()
        while grown:  # q(y2 | y1) brings y1 in
            grown = False
            for site in self.guide_sites:
                symbol = site["infer"]["_enumerate_symbol"]
                if symbol in needed and symbol not in used:
                    log_q = _copies_weigh(site["packed"]["log_prob"], site, self)
                    weights.append(log_q)
                    used.add(symbol)
                    needed |= self.averaged & set(log_q._pyro_dims)
                    grown = True
        dims = "".join(sorted({*term._pyro_dims, *(d for w in weights for d in w._pyro_dims)}))
        value = _aligned(term, dims)
        if weights:
            value = value * sum(_aligned(w, dims) for w in weights).exp()
        keep = {self.row, self.particle}
        value = value.sum([i for i, d in enumerate(dims) if d not in keep]) if dims else value
        return self._rows(value, [d for d in dims if d in keep]).mean(0)

    def particles_rows(self, term: Tensor) -> Tensor:
        keep = [d for d in term._pyro_dims if d in (self.row, self.particle)]
        out = [i for i, d in enumerate(term._pyro_dims) if d not in keep]
        return self._rows(term.sum(out) if out else term, keep)

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
            if seen is not None:
                total = total - seen.squeeze(-1) * math.log(_values(site))
        return total


def _values(site: dict[str, Any]) -> int:
    return site["fn"].enumerate_support(expand=False).shape[0]


def _aligned(term: Tensor, dims: str) -> Tensor:
    """The packed term with the dims named, broadcastable."""
    own = [d for d in dims if d in term._pyro_dims]
    value = term.permute([term._pyro_dims.index(d) for d in own]) if own else term
    sizes = iter(value.shape)
    return value.reshape([next(sizes) if d in own else 1 for d in dims])


def _unseen(log_q: Tensor, site: dict[str, Any], symbols: _Symbols) -> Tensor:
    return _where_seen(0.0, log_q, site, symbols)


def _copies_weigh(log_q: Tensor, site: dict[str, Any], symbols: _Symbols) -> Tensor:
    return _where_seen(-math.log(_values(site)), log_q, site, symbols)


def _where_seen(value: float, log_q: Tensor, site: dict[str, Any], symbols: _Symbols) -> Tensor:
    seen = seen_rows(site)
    if seen is None or symbols.row not in log_q._pyro_dims:
        return log_q
    shape = [symbols.traces.rows if d == symbols.row else 1 for d in log_q._pyro_dims]
    result = torch.where(seen.reshape(shape), value, log_q)
    result._pyro_dims = log_q._pyro_dims
    return result


def _refuse_reused_dims(traces: Traces) -> None:
    dims = [site["infer"]["_enumerate_dim"] for _, site in traces.drawn() if enumerated(site)]
    if len(set(dims)) < len(dims):
        raise Problem("the guide enumerates a pyro.markov chain", "its sites share dims, and averages under q would mix them up",
                      "leave the chain out of the guide: enumerated in the story alone it is summed out exactly")
