r"""A law for each column of a table: numbers, counts and classes side by side in one tensor.

Columns of one kind are one batch of one law, so a table costs a loop over its few kinds and none over rows or columns.

References: Nazabal, Olmos, Ghahramani & Valera 2020 (heterogeneous likelihoods); McCullagh 1980 (cumulative logit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, transforms
from torch.distributions.constraints import Constraint
from torch.nn.functional import logsigmoid, softplus

from ppvae.nn.heads import SMALLEST_SCALE
from ppvae.nn.kinds import Scales, arranged, classes, coded, grouped, kinds_of, scale_tensor, support


class ColumnsSupport(Constraint):
    """What each of the D columns can hold."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)

    def check(self, value: Tensor) -> Tensor:
        return torch.stack([support(kind).check(value[..., j]) for j, kind in enumerate(self.kinds)], -1)

    def of(self, column: int) -> str:
        """What a column can hold, in words."""
        return f"what a column of the kind {self.kinds[column]} can hold"


@biject_to.register(ColumnsSupport)
def _inside(_: ColumnsSupport) -> Transform:
    return transforms.ExpTransform()  # takes 0 to 1, which every kind can hold: what fills a gap is asked for here


class Columns(TorchDistribution):
    """Independent entries, each column with a law of its kind: batch (…, D), no event.

    ``mean`` is that of numbers, counts and bits (the probability of 1); NaN for ordinal and categorical columns, whose
    codes have none. `averaged` and `decided` complete those instead.

    Args:
        kinds: of the D columns; see `ppvae.nn.kinds`.
        laws: of the columns of each different kind, in the order in which kinds first appear: batch (…, J) each.
        places: `ppvae.nn.kinds.arranged` of the kinds, on the laws' device; made here if absent.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self, kinds: Sequence[str], laws: Sequence[TorchDistribution], places: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.kinds, self.laws = tuple(kinds), tuple(laws)
        self.places = arranged(kinds) if places is None else places
        self._names = tuple(grouped(self.kinds))
        self._sizes = [law.batch_shape[-1] for law in laws]
        lead = torch.broadcast_shapes(*(law.batch_shape[:-1] for law in laws))
        super().__init__(torch.Size((*lead, len(self.kinds))), validate_args=False)

    @property
    def support(self) -> ColumnsSupport:
        return ColumnsSupport(self.kinds)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Columns:
        laws = [law.expand((*batch_shape[:-1], size)) for law, size in zip(self.laws, self._sizes, strict=True)]
        return Columns(self.kinds, laws, self.places)

    def log_prob(self, value: Tensor) -> Tensor:
        parts = value.index_select(-1, self.places[0]).split(self._sizes, -1)
        return self._together(law.log_prob(part) for law, part in zip(self.laws, parts, strict=True))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        laws = self.expand(self.batch_shape).laws  # each with the whole leading shape, so that no row shares a draw
        return self._together(law.sample(torch.Size(sample_shape)).to(law.mean.dtype) for law in laws)

    @property
    def mean(self) -> Tensor:
        return self._together(law.mean for law in self.laws)

    @property
    def variance(self) -> Tensor:
        return self._together(law.variance for law in self.laws)

    @property
    def averaged(self) -> Tensor:
        """What is averaged over draws of the latents to complete a row, (…, M): means of numbers, probabilities of classes."""
        parts = (
            law.probs.flatten(-2) if coded(name) else law.mean for name, law in zip(self._names, self.laws, strict=True)
        )
        return torch.cat([part.expand(*self.batch_shape[:-1], part.shape[-1]) for part in parts], -1)

    def decided(self, averaged: Tensor) -> Tensor:
        """A value for each column from averages as of `averaged`, (…, M) to (…, D): numbers, counts and bits their mean, an
        ordinal column its median class, a categorical one its most probable class."""
        widths = [size * (classes(n) if coded(n) else 1) for n, size in zip(self._names, self._sizes, strict=True)]
        parts = zip(self._names, averaged.split(widths, -1), strict=True)
        return self._together(_decided(name, part) for name, part in parts)

    def _together(self, parts: Iterable[Tensor]) -> Tensor:
        """Columns kind by kind, in the table's order."""
        parts = list(parts)
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1).index_select(
            -1, self.places[1].to(parts[0].device)
        )


def _decided(kind: str, averaged: Tensor) -> Tensor:
    if not coded(kind):
        return averaged
    probs = averaged.unflatten(-1, (-1, classes(kind)))
    code = (probs.cumsum(-1) < 0.5).sum(-1).clamp(max=probs.shape[-1] - 1) if "ordinal" in kind else probs.argmax(-1)
    return torch.where(probs.isnan().any(-1), torch.nan, code.to(averaged.dtype))


def ordinal(score: Tensor, cuts: Tensor) -> dist.Categorical:
    r"""C classes in order, by the cumulative logit: P(x ≤ c) = sigmoid(cuts_c - score).

    .. math:: \log P(c) = \log\sigma(t_c - s) + \log\sigma(s - t_{c-1}) + \log(1 - e^{t_{c-1} - t_c})

    Args:
        score: (…, J).
        cuts: (J, C-1), increasing.
    """
    below = logsigmoid(cuts - score.unsqueeze(-1))  # log P(x ≤ c), (…, J, C-1)
    above = logsigmoid(score.unsqueeze(-1) - cuts)
    between = (-torch.expm1(cuts[..., :-1] - cuts[..., 1:])).log()
    middle = below[..., 1:] + above[..., :-1] + between
    return dist.Categorical(logits=torch.cat([below[..., :1], middle, above[..., -1:]], -1))


# --- from features to laws ------------------------------------------------------------------------


class _Law(nn.Module):
    """The laws of the J columns of one kind, from (…, J · outputs) features."""

    loc: Tensor
    scale: Tensor

    def __init__(self, kind: str, scales: Tensor) -> None:
        super().__init__()
        J, count = len(scales), classes(kind)
        self.law: Callable[..., TorchDistribution] = getattr(self, f"_{kind.partition(':')[0]}")
        self.outputs = count if kind.startswith("categorical") else 1
        self.register_buffer("loc", scales[:, 0], persistent=False)  # an argument, not a parameter: `save` keeps those
        self.register_buffer("scale", scales[:, 1], persistent=False)
        if kind in ("real", "positive", "count"):
            self.spread = nn.Parameter(torch.zeros(J))
        if kind.startswith("ordinal"):
            self.first = (2 - count) / 2  # cuts lie evenly around 0 at the start
            self.gaps = nn.Parameter(torch.full((J, count - 2), 0.5413))  # softplus of it is 1

    def forward(self, h: Tensor) -> TorchDistribution:
        return self.law(h)

    def _width(self) -> Tensor:
        return softplus(self.spread) + SMALLEST_SCALE

    def _real(self, h: Tensor) -> dist.Normal:
        return dist.Normal(self.loc + self.scale * h, self.scale * self._width())

    def _positive(self, h: Tensor) -> dist.LogNormal:
        return dist.LogNormal(self.loc + self.scale * h, self.scale * self._width())

    def _count(self, h: Tensor) -> dist.NegativeBinomial:
        """Of mean exp(loc + scale h) and variance mean + mean² · width."""
        failures = 1 / self._width()
        return dist.NegativeBinomial(failures, logits=self.loc + self.scale * h - failures.log())

    def _ordinal(self, h: Tensor) -> dist.Categorical:
        first = self.gaps.new_full((len(self.gaps), 1), self.first)
        return ordinal(h, torch.cat([first, self.first + softplus(self.gaps).cumsum(-1)], -1))

    def _categorical(self, h: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=h.unflatten(-1, (-1, self.outputs)))

    def _binary(self, h: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=h)


class ColumnsHead(nn.Module):
    """p(x | h) of a table: h (…, H) to `Columns` of batch (…, D).

    A real column is Normal, its spread learned, one a column. A positive one is LogNormal: its logarithm is such a real
    column, so that location and unit set its scale too, and its density is bounded, where a Gamma's may rise without end
    towards 0. A count is negative binomial, because a Poisson's variance is its mean and counts in tables vary more; the
    Poisson is its limit.

    Args:
        inputs: H.
        kinds: of the D columns; see `ppvae.nn.kinds`.
        scales: location and unit of each, as of `ppvae.nn.kinds.scales`; None: 0 and 1, for columns that are standardised.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, inputs: int, kinds: Sequence[str], scales: Scales | None = None) -> None:
        super().__init__()
        self.kinds = kinds_of(kinds, len(kinds))
        groups, units = grouped(self.kinds), scale_tensor(scales, len(kinds))
        laws = [_Law(kind, units[group]) for kind, group in groups.items()]
        self.laws = nn.ModuleList(laws)
        self.widths = [law.outputs * len(group) for law, group in zip(laws, groups.values(), strict=True)]
        self.linear = nn.Linear(inputs, sum(self.widths))
        for name, index in zip(("order", "inverse"), arranged(self.kinds), strict=True):
            self.register_buffer(name, index, persistent=False)

    def forward(self, h: Tensor) -> Columns:
        parts = self.linear(h).split(self.widths, -1)
        laws = [law(part) for law, part in zip(self.laws, parts, strict=True)]
        return Columns(self.kinds, laws, (self.order, self.inverse))
