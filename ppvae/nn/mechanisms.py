"""Mechanisms: which entries are seen, given the values; x (…, N, D) to Bernoulli(logits (…, N, D)), 1 = seen.

``logits = offset - (slope * pattern) x``; a mechanism is a pattern of what a column's being seen may depend on. Data alone do
not say why entries are missing (Rubin 1976): what a mechanism supposes, and how it learns, decides among stories that fit alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.errors import Problem

KINDS = ("agnostic", "self_masking", "sign_known", "group")
OTHERS = 0.1  # Adam's steps have one length: a slope that counts a tenth learns ten times slower
STEEP = 3.0  # in standard deviations of a standardised column


class SelfMasking(nn.Module):
    r"""A column goes missing by its own value: logit p(s_j = 1 | x) = b_j - a_j x_j.

    Args:
        features: D.
        signs: of a_j, where they are known: 1 where large values go missing, -1 where small ones do, (D,) or one for all;
            None: both may.

    Reference: Ipsen, Mattei & Frellsen 2021, section 3.
    """

    def __init__(self, features: int, signs: float | Sequence[float] | None = None) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(features))
        # Where the sign is known the slope begins steep: a story that has learned to do without it does not find it again.
        self.slope = nn.Parameter(torch.full((features,), 0.0 if signs is None else STEEP))
        self.register_buffer("signs", None if signs is None else _signs(signs, features), persistent=False)

    def forward(self, x: Tensor) -> dist.Bernoulli:
        slope = self.slope if self.signs is None else self.signs * softplus(self.slope)
        return dist.Bernoulli(logits=self.offset - slope * x)


class Groups(nn.Module):
    r"""A column goes missing by the values of its group: logit p(s_j = 1 | x) = b_j - sum_{i in group of j} A_ji x_i.

    A column's own value learns first, the others' slopes at a tenth of its pace: observed columns tell of a mask well enough for
    the story to stay as it would be without a mechanism, or to bend the other way.

    Args:
        features: D.
        groups: of columns, each column in at most one; a column in none goes missing by chance alone. None: one group of
            all, the agnostic mechanism.
    """

    def __init__(self, features: int, groups: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(features))
        self.slope = nn.Parameter(torch.zeros(features, features))
        pattern = _pattern(features, groups)
        own = torch.eye(features)
        self.register_buffer("pattern", pattern * (own + OTHERS * (1 - own)), persistent=False)

    def forward(self, x: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.offset - x @ (self.slope * self.pattern).T)


def mechanism(
    name: str,
    features: int,
    signs: float | Sequence[float] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """The mechanism of that name: agnostic, self_masking, sign_known (takes ``signs``) or group (takes ``groups``)."""
    if name not in KINDS:
        raise Problem(f"there is no mechanism {name!r}", "a misspelt name", ", ".join(KINDS))
    for option, value, takes in (("signs", signs, "sign_known"), ("groups", groups, "group")):
        if value is not None and name != takes:
            raise Problem(
                f"{option}={value!r} of the mechanism {name!r}", f"only {takes!r} takes {option}", repr(takes)
            )
    if name in ("self_masking", "sign_known"):
        return SelfMasking(features, (1.0 if signs is None else signs) if name == "sign_known" else None)
    return Groups(features, (groups or ()) if name == "group" else None)


def _signs(signs: float | Sequence[float], features: int) -> Tensor:
    found = torch.as_tensor(signs, dtype=torch.get_default_dtype())
    if found.dim() > 1 or found.numel() not in (1, features) or not (found.abs() == 1).all():
        raise Problem(
            f"signs {signs!r} of {features} columns",
            "1 says that large values go missing, -1 that small ones do",
            "one sign for all columns, or one a column",
        )
    return found.expand(features).clone()


def _pattern(features: int, groups: Sequence[Sequence[int]] | None) -> Tensor:
    if groups is None:
        return torch.ones(features, features)
    columns = [column for group in groups for column in group]
    if len(set(columns)) < len(columns) or not set(columns) <= set(range(features)):
        raise Problem(
            f"groups {groups!r} of {features} columns",
            "a column that stands twice, or one that there is not",
            f"columns 0 … {features - 1}, each in one group: ((0, 1), (2, 3, 4))",
        )
    pattern = torch.zeros(features, features)
    for group in groups:
        pattern[torch.tensor(group)[:, None], torch.tensor(group)] = 1.0
    return pattern
