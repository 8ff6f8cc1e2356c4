"""Mechanisms: which entries are seen, given the values; x (…, N, D) to Bernoulli(logits (…, N, D)), 1 = seen.

``logits = offset - slope x``; a mechanism says on which columns a column's being seen may depend. Data alone do
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
STEEP = 3.0  # in standard deviations of a standardised column
OWN, OTHERS = 40.0, 0.4  # Adam's steps have one length: what counts forty times learns forty times faster


class SelfMasking(nn.Module):
    r"""A column goes missing by its own value: logit p(s_j = 1 | x) = b_j - a_j x_j.

    It learns many times faster than a story: until a mechanism is steep, the further a draw of a missing entry lies from
    what was seen the better it explains that it was not, and a network follows it there.

    Args:
        features: D.
        signs: of a_j, where they are known: 1 where large values go missing, -1 where small ones do, (D,) or one for all;
            None: both may.

    Reference: Ipsen, Mattei & Frellsen 2021, section 3.
    """

    signs: Tensor | None

    def __init__(self, features: int, signs: float | Sequence[float] | None = None) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(features))
        self.pace = nn.Parameter(torch.full((features,), 0.0 if signs is None else STEEP / OWN))
        self.register_buffer("signs", None if signs is None else _signs(signs, features), persistent=False)

    @property
    def offset(self) -> Tensor:
        """b, (D,)."""
        return OWN * self.level

    @property
    def slope(self) -> Tensor:
        """a, (D,)."""
        slope = OWN * self.pace
        return slope if self.signs is None else self.signs * softplus(slope)

    def forward(self, x: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.offset - self.slope * x)


class Groups(nn.Module):
    r"""A column goes missing by the values of its group: logit p(s_j = 1 | x) = b_j - sum_{i in group of j} A_ji x_i.

    Offsets and a column's own slope learn first, the others' slopes a hundred times slower. Observed columns tell of a mask well
    enough for the story to stay as it would be without a mechanism, or to bend the other way; and until a column that is always
    seen is known to be so, what is missing elsewhere is pushed to where it says so too.

    Args:
        features: D.
        groups: of columns, each column in at most one; a column in none goes missing by chance alone. None: one group of
            all, the agnostic mechanism.
    """

    pattern: Tensor

    def __init__(self, features: int, groups: Sequence[Sequence[int]] | None = None) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(features))
        self.pace = nn.Parameter(torch.zeros(features, features))
        own = torch.eye(features)
        self.register_buffer("pattern", _pattern(features, groups) * (OWN * own + OTHERS * (1 - own)), persistent=False)

    @property
    def offset(self) -> Tensor:
        """b, (D,)."""
        return OWN * self.level

    @property
    def slope(self) -> Tensor:
        """A, (D, D)."""
        return self.pace * self.pattern

    def forward(self, x: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.offset - x @ self.slope.T)


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
