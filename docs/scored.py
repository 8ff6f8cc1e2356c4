"""What a fitted pair reaches on rows that it did not see, beside what simple stories reach on the same: a page's table."""

from __future__ import annotations

import torch
from ppvae.models.factor_analysis import Decoder as Loadings
from pyro import poutine
from pyro.distributions import Delta
from recipes import FACTORS
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import ppvae

PARTICLES = 200
ROWS = 200

BOUND = "the ELBO"
POINT = "log p(x_o, z) at the one z that the guide gives: no bound"
EVIDENCE = f"log p(x_o) by {PARTICLES} importance samples (a lower bound in expectation)"
EXACT = "log p(x_o), exact: the guide is the posterior itself"
ALONE = "each entry on its own"


def table(name: str, pair: ppvae.Pair, train: dict[str, Tensor], test: dict[str, Tensor]) -> str:
    """The table, in nats per row, ± the standard error of the mean over the test rows."""
    rows = {entry: value[:ROWS] for entry, value in test.items()}
    pair.eval()
    torch.manual_seed(0)
    posterior = ppvae.condition(pair, rows)
    with torch.no_grad():
        drawn = _drawn(pair, rows)
        lines = [("ours", BOUND if drawn else POINT, ppvae.elbo(20)(pair, posterior.table))]
    if drawn and not posterior.global_latents:
        lines.append(("ours", EXACT if pair.exact else EVIDENCE, posterior.log_evidence(PARTICLES)))
    lines += [("reference", what, values) for what, values in _references(name, pair, train, rows)]
    count = len(rows["x"])
    shares = 1 - rows["x"].isnan().double().mean()
    text = [
        "",
        f"| | on {count} test rows, {100 * float(shares):.0f} % of x observed | nats per row |",
        "|---|---|---|",
    ]
    for whose, what, values in lines:
        error = (
            "" if len(values) < 2 or bool((values == values[0]).all()) else f" ± {float(values.std()) / count**0.5:.2f}"
        )
        text.append(f"| {whose} | {what} | {float(values.mean()):.2f}{error} |")
    return "\n".join([*text, ""])


def _drawn(pair: ppvae.Pair, rows: dict[str, Tensor]) -> bool:
    """Whether the guide draws: one that does not has no bound."""
    with torch.no_grad():
        trace = poutine.trace(pair.guide).get_trace(**ppvae.condition(pair, rows).table.call(pair))
    return not any(isinstance(trace.nodes[name]["fn"], Delta) for name in trace.stochastic_nodes)


def _references(
    name: str, pair: ppvae.Pair, train: dict[str, Tensor], test: dict[str, Tensor]
) -> list[tuple[str, Tensor]]:
    if name == "bayesian_linear":
        return [("the joint log p(x) of all rows, exact, over their number", _linear(pair, test))]
    if name == "mixed_vae":
        return []
    x, rows = train["x"].double(), test["x"].double()
    if "seen" in pair.entries:
        missing = x.isnan().double().mean(0).clamp(1e-3, 1 - 1e-3)
        holes = (rows.isnan() * missing.log() + ~rows.isnan() * (1 - missing).log()).sum(1)
        return [(what + ", each entry missing on its own", value + holes) for what, value in _gaussian(x, rows, 2)]
    known = x[~x.isnan()]
    if bool(((known == 0) | (known == 1)).all()):
        share = ((x == 1).double().sum(0) + 0.5) / ((~x.isnan()).double().sum(0) + 1)
        return [(ALONE, torch.where(rows.isnan(), 0.0, rows * share.log() + (1 - rows) * (1 - share).log()).sum(1))]
    if "exists" in pair.entries:  # a Normal for each entry that exists, and the shares of the patterns
        return [
            (f"{ALONE}, and how often its parts exist", _alone(x, rows) + _patterns(train["exists"], test["exists"]))
        ]
    return [*_itself(pair, rows), *_gaussian(x, rows, FACTORS)]


def _itself(pair: ppvae.Pair, rows: Tensor) -> list[tuple[str, Tensor]]:
    """The exact answer that the guide approximates, where the story is factor analysis."""
    decoder = next(pair.children())
    if not isinstance(decoder, Loadings) or pair.exact:
        return []
    story = (part.detach().double() for part in (decoder.W, decoder.loc, decoder.scale))
    return [
        ("log p(x_o) of this very story, exact", ppvae.exact.log_evidence(*story, rows.nan_to_num(), ~rows.isnan()))
    ]


def _gaussian(x: Tensor, rows: Tensor, factors: int) -> list[tuple[str, Tensor]]:
    fitted = ppvae.exact.em(x, factors)
    exact = ppvae.exact.log_evidence(fitted.W, fitted.loc, fitted.scale, rows.nan_to_num(), ~rows.isnan())
    return [(f"factor analysis of {factors} factors by EM, exact", exact), (ALONE, _alone(x, rows))]


def _alone(x: Tensor, rows: Tensor) -> Tensor:
    loc = x.nanmean(0)
    scale = (x - loc).square().nanmean(0).sqrt()
    return torch.where(rows.isnan(), 0.0, Normal(loc, scale).log_prob(rows.nan_to_num())).sum(1)


def _patterns(train: Tensor, test: Tensor) -> Tensor:
    """log of the share of each pattern of existence, (N_e + 2^-P) / (N + 1), as the stories of parts have it."""
    count = (test[:, None] == train).all(-1).double().sum(1)
    return ((count + 0.5 ** test.shape[1]) / (len(train) + 1)).log()


def _linear(pair: ppvae.Pair, rows: dict[str, Tensor]) -> Tensor:
    """Bayesian linear regression: each response of all rows is Normal, with covariance inputs inputs' + scale^2 I."""
    inputs, x = rows["inputs"].double(), rows["x"].double()
    covariance = inputs @ inputs.mT + pair.noise.scale.detach().double() ** 2 * torch.eye(len(x), dtype=x.dtype)
    joint = MultivariateNormal(torch.zeros(len(x), dtype=x.dtype), covariance).log_prob(x.mT).sum()
    return (joint / len(x)).reshape(1)
