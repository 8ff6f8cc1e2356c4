"""Weights of the data's terms: a class that is rare, or a modality of few entries beside one of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pyro import poutine
from torch import Tensor

from ppvae.errors import Problem
from ppvae.tracing.traces import Traces

COMPUTED = (
    "log_prob",
    "log_prob_sum",
    "unscaled_log_prob",
    "packed",
)  # what Pyro keeps at a site once it has scored it
Weight = float | Callable[[Tensor, Tensor], Tensor]


def balanced(x: Tensor, mask: Tensor) -> Tensor:
    """Weights of bits under which a row's ones count as much together as its zeros: observed zeros / observed ones at the
    ones, 1 at the zeros, (N, D).

    For links, of which there are few: with it the likelihood of a graph's pairs is, up to the factor 2 of a symmetric matrix,
    the weighted cross-entropy of Kipf & Welling 2016.

    Args:
        x: (N, D) of 0 and 1.
        mask: (N, D), True = observed.
    """
    ones = ((x > 0) & mask).count_nonzero(-1).unsqueeze(-1)
    zeros = mask.count_nonzero(-1).unsqueeze(-1) - ones
    return torch.where(x > 0, zeros.to(x) / ones.clamp(min=1), 1.0)


def refuse_emphasis(likelihood: Mapping[str, Weight] | None) -> None:
    """Weights that are no weights."""
    if likelihood is not None and not isinstance(likelihood, Mapping):
        raise Problem(
            f"the weights are {likelihood!r}", "they go by the name of the observed site", "likelihood={'x': 10.0}"
        )
    for name, weight in (likelihood or {}).items():
        if not callable(weight) and not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
            raise Problem(
                f"the weight of {name!r} is {weight!r}",
                "a factor of its log-probability: a number of at least 0, or a function of (values, mask) to one of each entry",
                f"likelihood={{{name!r}: 10.0}}, or ppvae.balanced for bits of which few are 1",
            )


def said_weights(likelihood: Mapping[str, Weight] | None) -> str:
    """Weights as they stand among an objective's options, functions by name; nothing where there are none."""
    if likelihood is None:
        return ""
    words = (f"{name!r}: {getattr(weight, '__qualname__', weight)}" for name, weight in likelihood.items())
    return f", likelihood={{{', '.join(words)}}}"


def emphasised(traces: Traces, likelihood: Mapping[str, Weight]) -> Traces:
    """The same run, in which the log-probabilities of these observed sites carry weights.

    Raises:
        Problem: a site that the story does not have, or does not observe.
    """
    model = poutine.Trace()
    for name, site in traces.model.nodes.items():
        model.add_node(name, **site)
    observed = [name for name, site in model.nodes.items() if site["type"] == "sample" and site["is_observed"]]
    for name, weight in likelihood.items():
        if name not in observed:
            raise Problem(
                f"the likelihood of {name!r} is to be weighted, and the story does not observe {name!r}",
                "a misspelt name, or an entry that the data do not have",
                f"observed here: {', '.join(observed) or 'nothing'}",
            )
        site = model.nodes[name]
        if callable(weight):
            value = site["value"]
            seen = site["mask"] if isinstance(site["mask"], Tensor) else torch.ones_like(value, dtype=torch.bool)
            weight = weight(value, seen.expand(value.shape))
        kept = {key: value for key, value in site.items() if key not in COMPUTED}
        model.nodes[name] = {**kept, "scale": weight}
    return replace(traces, model=model)
