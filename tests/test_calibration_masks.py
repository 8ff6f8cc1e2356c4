"""Calibration under laws of missing entries: the exact guide passes, a factorised one misses by what can be computed."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import pair
from oracles import dense_posterior
from ppvae.models.factor_analysis import Decoder, model
from scipy import stats

import ppvae
from ppvae import data, exact
from ppvae.evaluate import sbc, tarp

DRAWS = 99
LAWS = {"MCAR": lambda seed: lambda x: data.mcar(x, 0.5, seed), "MAR": lambda seed: lambda x: data.mar(x, 0.35, seed)}


def story(name):
    """Two latents that five columns hold together."""
    made = pair(name, features=5, latents=2) if isinstance(name, str) else name
    generator = torch.Generator().manual_seed(3)
    made.decoder.set_(
        torch.ones(5, 2) + 0.3 * torch.randn(5, 2, generator=generator), torch.arange(5.0), torch.full((5,), 0.6)
    )
    return made


def factorised():
    """The exact mean under each mask, and variances 1 / L_kk: the best that a diagonal can do."""

    def guide(decoder, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            q = exact.mean_field(decoder.W, decoder.loc, decoder.scale, x, mask).base_dist
            pyro.sample("z", dist.Normal(q.loc[:, None], q.scale[:, None]).to_event(1))

    return story(ppvae.Pair(model, guide, decoder=Decoder(5, 2, False)))


class Hiding:
    """A law, another mask each time that it is asked, which remembers them in the order of the rows."""

    def __init__(self, rate, seed):
        self.rate, self.seed, self.masks = rate, seed, []

    def __call__(self, x):
        self.masks.append(data.mcar(x, self.rate, 100 * self.seed + len(self.masks)))
        return self.masks[-1]


def held(ratio, level):
    """How often a truth N(0, 1) lies between the ranks of a central interval of draws N(0, ratio^2): by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    tail = round((DRAWS + 1) * (1 - level) / 2)
    below = stats.norm.cdf(nodes[:, None] / ratio[None])
    inside = stats.binom.cdf(DRAWS - tail, DRAWS, below) - stats.binom.cdf(tail - 1, DRAWS, below)
    return weights @ inside


@pytest.mark.parametrize("law", LAWS)
def test_the_exact_guide_passes_whatever_is_hidden(law):
    made, x = story("factor_analysis_exact"), torch.zeros(250, 5)
    p = []
    for seed in range(8):
        torch.manual_seed(seed)
        found = sbc(made, x, LAWS[law](seed))
        asked = torch.cat([found.p_value["z"], found.p_value["x"][~found.p_value["x"].isnan()]])
        p += asked.tolist()
        p.append(tarp(made, x, LAWS[law](seed)).p_value)
    assert min(p) > 1e-4  # of about 60 under one law
    assert sum(value < 0.05 for value in p) < 0.05 * len(p) + 5 * math.sqrt(0.05 * 0.95 * len(p))


def test_hidden_entries_are_ranked_and_observed_ones_are_not():
    made, x = story("factor_analysis_exact"), torch.zeros(300, 5)
    law = Hiding(0.5, 7)
    found = sbc(made, x, law)
    assert torch.equal(found.ranks["x"] == -1, torch.cat(law.masks)) and found.ranks["x"].max() <= DRAWS
    assert found.ranks["z"].shape == (300, 2) and "x" not in sbc(made, x).ranks
    few = sbc(made, x, lambda x: torch.arange(5).expand(x.shape) != 0).p_value["x"]
    assert few[0] > 1e-4 and few[1:].isnan().all()


def test_a_factorised_guide_misses_by_what_is_computed():
    """Coverage of each latent's interval, 2 Phi(z_a sqrt(1 / L_kk / (L^-1)_kk)) - 1 for many draws, over 2,500 masks."""
    made, x = factorised(), torch.zeros(2500, 5)
    law = Hiding(0.4, 0)
    found, mask = sbc(made, x, law), torch.cat(law.masks)
    d = made.decoder
    _, covariance = dense_posterior(*(t.detach() for t in (d.W, d.loc, d.scale)), torch.zeros(2500, 5), mask)
    ratio = (1 / torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1) / covariance.diagonal(dim1=-2, dim2=-1)).sqrt()
    assert (found.p_value["z"] < 1e-6).all() and tarp(made, x, law).p_value < 1e-6
    for level in (0.5, 0.9):
        tail = round((DRAWS + 1) * (1 - level) / 2)
        ranks = found.ranks["z"]
        inside = ((ranks >= tail) & (ranks <= DRAWS - tail)).double().mean(0)
        for k in range(2):
            wanted = held(ratio[:, k].detach().numpy(), level)
            error = 5 * math.sqrt(wanted.mean() * (1 - wanted.mean()) / 2500)
            assert abs(inside[k] - wanted.mean()) < error
            plain = 2 * stats.norm.cdf(stats.norm.ppf((1 + level) / 2) * ratio[:, k].detach().numpy()) - 1
            assert abs(wanted.mean() - plain.mean()) < 0.015  # the limit of many draws
            assert wanted.mean() < level - 0.05  # and far from nominal


def test_hidden_entries_under_a_factorised_guide_are_too_sure_too():
    """x_j | x_o has variance w' L^-1 w + psi; draws have w' diag(1 / L_kk) w + psi."""
    made, x = factorised(), torch.zeros(2500, 5)
    law = Hiding(0.4, 1)
    found, mask = sbc(made, x, law), torch.cat(law.masks)
    d = made.decoder
    W, loc, scale = (t.detach() for t in (d.W, d.loc, d.scale))
    _, covariance = dense_posterior(W, loc, scale, torch.zeros(2500, 5), mask)
    diagonal = 1 / torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1)
    narrow = torch.einsum("dk,nk->nd", W.square(), diagonal) + scale**2
    true = torch.einsum("dk,nkl,dl->nd", W, covariance, W) + scale**2
    for j in range(5):
        ranks, ratio = found.ranks["x"][~mask[:, j], j], (narrow / true).sqrt()[~mask[:, j], j].numpy()
        wanted = held(ratio, 0.9).mean()
        inside = ((ranks >= 5) & (ranks <= 94)).double().mean()
        assert abs(inside - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / len(ranks))


def test_the_guide_of_mean_filled_rows_is_found_out():
    made, x = story("factor_analysis_fca"), torch.zeros(400, 5)
    law = LAWS["MCAR"](0)
    assert (sbc(made, x, law).p_value["z"] < 1e-6).any() and tarp(made, x, law).p_value < 1e-6
    assert (sbc(made, x).p_value["z"] > 1e-4).all() and tarp(made, x).p_value > 1e-4  # exact on complete rows


def test_importance_weights_mend_it():
    """A guide twice as wide as the prior, which reads nothing."""
    made, x = story("factor_analysis_diagonal"), torch.zeros(250, 5)
    made.encoder.linear.weight.data.zero_(), made.encoder.linear.bias.data.zero_()
    made.encoder.log_scale.data.fill_(math.log(2))
    law = Hiding(0.5, 2)
    assert (sbc(made, x, law, draws=19).p_value["z"] < 1e-6).all() and tarp(made, x, law, draws=19).p_value < 1e-3
    assert tarp(made, x, law, draws=19, particles=2000).p_value > 1e-4
    assert (sbc(made, x, law, draws=19, particles=2000).p_value["z"] > 1e-4).all()


def test_every_kind_of_pair_is_tested_under_a_law():
    from examples import data as entries_of

    for name in ("two_layer", "conditional_vae", "vae"):
        made = pair(name)
        entries, _ = entries_of(made, rows=30)
        found = sbc(made, entries, LAWS["MCAR"](0), draws=9)
        assert "x" in found.ranks and 0 <= tarp(made, entries, LAWS["MCAR"](0), draws=9).p_value <= 1


@pytest.mark.parametrize(
    ("rows", "law", "words"),
    [
        (9, None, "9 rows to test calibration by"),
        (20, lambda x: x > 0.5 if x.ndim == 1 else torch.ones(len(x), 2, dtype=torch.bool), "the law gives a mask"),
        (20, lambda x: torch.ones_like(x), "the law gives a mask of torch.float"),
    ],
)
def test_what_cannot_be_tested_is_said(rows, law, words):
    made = story("factor_analysis_exact")
    for verb in (sbc, tarp):
        with pytest.raises(ppvae.Problem, match=words):
            verb(made, torch.zeros(rows, 5), law)
