"""Multiple imputation: the mixture on normal scores step by step against dense answers, the protocol against loops."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from ppvae.evaluate import rubin
from ppvae.imputation import WAYS, complete
from ppvae.imputation import normal_scores as scores
from ppvae.imputation.normal_scores import _Chain, _Column, score_mixture, truncated
from ppvae.reproduce import calibration
from ppvae.reproduce import multiple_imputation as protocol

INF = math.inf


def short(monkeypatch, kept=40):
    for name, rounds in (("ALONE", 10), ("BURN_IN", 20), ("KEPT", kept)):
        monkeypatch.setattr(scores, name, rounds)


# --- the chain -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "scale", "low", "high"),
    [(0.3, 1.2, -1, 0.5), (0, 1, 6, INF), (2, 0.5, -INF, -3), (0, 1, -INF, INF), (5, 2, 5, 5.1)],
)
def test_truncated_draws_are_scipys(mean, scale, low, high):
    parts = (torch.full((20_000,), float(v)) for v in (mean, scale, low, high))
    drawn = truncated(*parts).numpy()
    wanted = stats.truncnorm((low - mean) / scale, (high - mean) / scale, mean, scale)
    assert drawn.min() >= low and drawn.max() <= high
    assert stats.kstest(drawn, wanted.cdf).pvalue > 1e-4


def test_beyond_all_probability_the_nearer_end_stands():
    drawn = truncated(*(torch.tensor([v]) for v in (0.0, 1.0, 60.0, INF)))
    assert drawn.isfinite().all() and abs(drawn - 60) < 1e-9


def test_cuts_are_the_shares_of_what_was_observed():
    x = torch.tensor([2.0, 0.0, torch.nan, 0.0, 5.0, 0.0])
    column = _Column(x)
    first, second = stats.norm.ppf(0.6), stats.norm.ppf(0.8)
    assert torch.allclose(column.cuts, torch.tensor([first, second]))
    assert column.low.tolist() == pytest.approx([first, -INF, -INF, -INF, second, -INF])
    assert column.high.tolist() == pytest.approx([second, first, INF, first, INF, first])
    z = torch.tensor([-3.0, first - 1e-6, first + 1e-6, second + 1e-6, 9.0])
    assert column.back(z).tolist() == [0, 0, 2, 5, 5]


def chain(N=2, K=3, D=4, seed=0):
    torch.manual_seed(seed)
    missing = torch.tensor([[True, False, True, False]] * N).T
    one = _Chain(torch.where(missing, -INF, 0.3), torch.where(missing, INF, 0.3001))
    A = torch.randn(K, D, D)
    one.size, one.covariance = K, A @ A.mT + torch.eye(D)
    one.precision, one.loc = torch.linalg.inv(one.covariance), torch.randn(K, D)
    one.log_weight = torch.tensor([0.2, 0.5, 0.3])[:K].log()
    return one


def test_a_rows_component_and_gaps_are_drawn_from_their_joint_law():
    one = chain(N=40_000)
    one.z[~one.missing] = 0.3
    one._rows()
    o, m = [1, 3], [0, 2]
    x = torch.full((2,), 0.3)
    dense = [
        stats.multivariate_normal(mu[o].numpy(), S[o][:, o].numpy()).pdf(x.numpy())
        for mu, S in zip(one.loc, one.covariance, strict=True)
    ]
    share = one.log_weight.exp().numpy() * np.array(dense)
    share = share / share.sum()
    assert np.abs(one.of.bincount(minlength=3).numpy() / 40_000 - share).max() < 5 * 0.5 / 200
    for k in range(3):
        mine = one.z[:, one.of == k][m]
        S, mu = one.covariance[k], one.loc[k]
        gain = S[m][:, o] @ torch.linalg.inv(S[o][:, o])
        mean, spread = mu[m] + gain @ (x - mu[o]), S[m][:, m] - gain @ S[o][:, m]
        error = 5 * spread.diagonal().sqrt() / math.sqrt(mine.shape[1])
        assert ((mine.mean(1) - mean).abs() < error).all()
        assert torch.allclose(mine.cov(), spread, atol=8 * float(spread.max()) / math.sqrt(mine.shape[1]))
    assert (one.z[o] == 0.3).all()


def test_a_column_is_drawn_from_its_conditional():
    one = chain(N=30_000, K=1)
    one.low.fill_(-INF), one.high.fill_(INF)
    start = torch.tensor([0.5, -0.2, 0.1, 0.4])
    one.z = start[:, None].expand(4, 30_000).clone()
    one.of.zero_()
    one._columns()
    S, mu, rest = one.covariance[0], one.loc[0], [1, 2, 3]
    gain = S[0, rest] @ torch.linalg.inv(S[rest][:, rest])
    mean, spread = mu[0] + gain @ (start - mu)[rest], (S[0, 0] - gain @ S[rest, 0]).sqrt()
    assert stats.kstest(one.z[0].numpy(), stats.norm(float(mean), float(spread)).cdf).pvalue > 1e-4


def test_parameters_of_one_component_are_those_of_its_rows():
    """20,000 rows leave the prior nothing to say: mean and covariance within five errors."""
    torch.manual_seed(1)
    A = torch.randn(3, 3)
    z = A @ torch.randn(3, 20_000) + torch.tensor([1.0, 0, -1])[:, None]
    one = _Chain(torch.full_like(z, -INF), torch.full_like(z, INF))
    one.z = z
    one._parameters()
    S = z.cov()
    assert ((one.loc[0] - z.mean(1)).abs() < 5 * (S.diagonal() / 20_000).sqrt()).all()
    assert ((one.covariance[0] - S).abs() < 8 * S.diagonal().max() / math.sqrt(20_000)).all()
    assert torch.allclose(one.log_weight.exp(), torch.ones(1))


# --- the way -----------------------------------------------------------------------------------------------


def test_a_columns_own_law_is_kept_atoms_and_tails_included(monkeypatch):
    short(monkeypatch)
    rng = np.random.default_rng(0)
    a = rng.normal(size=1500)
    truth = np.stack(
        [np.exp(2 * a), np.round(3 * a), np.where(a + rng.normal(size=1500) > 0, 0, rng.gamma(2, size=1500))], 1
    )
    x = torch.from_numpy(truth)
    mask = torch.from_numpy(rng.random(x.shape) > 0.4)
    found = complete(x.masked_fill(~mask, torch.nan), WAYS[protocol.MIXTURE], 10, 1)
    assert torch.equal(found.draws[:, mask], x[mask].expand(10, -1))
    for j in range(3):
        seen, drawn = x[mask[:, j], j], found.draws[:, ~mask[:, j], j]
        assert np.isclose(drawn.numpy()[..., None], seen.unique().numpy()).any(-1).all()  # values that were observed
        for cut in seen.quantile(torch.tensor([0.2, 0.5, 0.9], dtype=seen.dtype)):
            p = float((seen <= cut).double().mean())
            assert (
                abs(float((drawn <= cut + 1e-9).double().mean()) - p)
                < 5 * math.sqrt(2 * p * (1 - p) / len(seen)) + 0.01
            )


def test_bent_columns_are_completed_along_the_bend(monkeypatch):
    """y = a^2 + noise says nothing to a line: the mixture's error is a fraction of the column's spread."""
    short(monkeypatch, 60)
    rng = np.random.default_rng(0)
    a = rng.normal(size=800)
    x = torch.from_numpy(np.stack([a, a**2 + 0.1 * rng.normal(size=800)], 1))
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[::3, 1] = False
    found = score_mixture(x.masked_fill(~mask, torch.nan), 30, 0)
    error = (found.mean - x)[~mask].square().mean().sqrt()
    assert error < 0.4 * x[:, 1].std()
    again = score_mixture(x.masked_fill(~mask, torch.nan), 30, 0)
    assert torch.equal(found.draws, again.draws)


@pytest.mark.slow
def test_intervals_of_a_population_hold_as_often_as_they_say():
    """P(x_1 > 0) of a lognormal pair of columns, half missing: 200 tables, Rubin's 95 % intervals (five errors of a share)."""
    held = []
    for seed in range(200):
        torch.manual_seed(seed)
        a = torch.randn(300)
        x = torch.stack([a + 0.5 * torch.randn(300), a.exp()], 1)
        mask = torch.rand(300, 2) > 0.5
        drawn = score_mixture(x.masked_fill(~mask, torch.nan), 10, seed).draws
        share = (drawn[..., 0] > 0).double().mean(1)
        low, high = rubin(share, share * (1 - share) / 300).interval(0.95)
        held.append(float(low <= 0.5 <= high))
    assert abs(np.mean(held) - 0.95) < 5 * math.sqrt(0.95 * 0.05 / 200)


# --- the protocol --------------------------------------------------------------------------------------------


def test_laws_hide_what_they_say():
    x = torch.randn(20_000, 10).exp()
    mar, left = protocol.driven(x, 0, inputs_too=False), protocol.driven(x, 0, inputs_too=True)
    whole = mar.all(0)
    assert int(whole.sum()) == 3 and ((mar[:, ~whole].double().mean(0) - 0.5).abs() < 0.02).all()
    assert ((left.double().mean(0) - 0.5).abs() < 0.02).all()
    z = (x - x.mean(0)) / x.std(0)
    slope = torch.stack([(z[:, whole] * (~left[:, j, None]).double()).mean(0) for j in range(10)])
    assert (slope[~whole].abs().amax(1) > 0.03).all() and (
        slope[whole].abs() < 0.03
    ).all()  # A's own holes do not look at A
    every, tails = protocol.outer(x, 1, tails=False), protocol.outer(x, 1, tails=True)
    chosen = ~every.all(0)
    assert int(chosen.sum()) == 7 and torch.equal(chosen, ~tails.all(0))
    assert ((every[:, chosen].double().mean(0) - 0.5).abs() < 0.02).all()
    low, high = (x.quantile(q, dim=0) for q in (0.25, 0.75))
    inside = (x > low) & (x < high)
    assert tails[inside].all() and abs(float(tails[:, chosen][~inside[:, chosen]].double().mean()) - 0.5) < 0.02


@pytest.mark.parametrize("fixed", [False, True])
def test_intervals_are_those_of_a_loop(fixed):
    x = torch.randn(50, 3).exp()
    drawn = x + 0.5 * torch.randn(7, 50, 3)
    held, bias, width = [], [], []
    for j in range(3):
        truth = np.mean((x[:, j] > x[:, j].mean()).numpy())
        p = []
        for one in drawn[:, :, j].numpy():
            c = float(x[:, j].mean()) if fixed else one.mean()
            p.append(np.mean(one > c))
        p = np.array(p)
        within, between = np.mean(p * (1 - p) / 50), np.var(p, ddof=1)
        total = within + 8 / 7 * between
        reach = stats.t.ppf(0.975, 6 * (total / (8 / 7 * between)) ** 2) * math.sqrt(total)
        held.append(abs(p.mean() - truth) <= reach), bias.append(abs(p.mean() - truth)), width.append(2 * reach)
    found = protocol.intervals(drawn, x, fixed)
    assert np.allclose(found, (np.mean(held), np.mean(bias), np.mean(width)), atol=1e-12)


def test_the_command_writes_both_tables(ppvae_, data_folder):
    code, _, err = ppvae_("reproduce", "multiple-imputation", "--seeds", 1, "--budget", "smoke", "--json", "t.json")
    assert code == 0, err
    record = json.load(open("t.json"))
    found = {(r["row"], r["column"]): r["value"] for r in record["results"]}
    assert {row for row, _ in found} >= {protocol.MIXTURE, *protocol.OURS, protocol.PEER}
    for row in (protocol.MIXTURE, *protocol.OURS):
        for law in ("MCAR", "MNAR-L"):
            assert found[row, f"{law}, coverage"] == found[row, f"banknote, {law}, coverage"]
            assert 0 <= found[row, f"{law}, coverage"] <= 1 and 0 < found[row, f"{law}, bias"] < 0.3
    published = {r["reference"] for r in record["results"] if r["row"] == protocol.PEER} - {None}
    assert published == {0.443, 0.394}


def test_the_command_checks_pairs_and_tables(ppvae_, data_folder):
    code, _, err = ppvae_("reproduce", "calibration", "--seeds", 1, "--budget", "smoke", "--json", "c.json")
    assert code == 0, err
    found = {(r["row"], r["column"]): r["value"] for r in json.load(open("c.json"))["results"]}
    assert found["Factor analysis, exact", "TARP, p-value"] > 1e-4
    assert found["Factor analysis, mean-filled", "TARP, p-value"] < 0.05  # 60 rows
    assert found["Gaussian by EM", "banknote, CRPS / baseline"] == 1
    assert found["Our choice", "banknote, CRPS"] in [found[name, "banknote, CRPS"] for name in calibration.CANDIDATES]
