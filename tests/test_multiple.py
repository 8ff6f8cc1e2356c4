"""Rubin's rules and conformal intervals: by hand, in their limits, and by the share of truths that they hold."""

import math

import pytest
import torch
from examples import linear_gaussian
from scipy import stats

import ppvae
from ppvae import exact
from ppvae.evaluate import conformal, rubin

# --- Rubin's rules ------------------------------------------------------------------------------------------


def test_the_rules_by_hand():
    found = rubin(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 4.0, 3.0]))
    between, within = 4.0, 3.0
    total = within + 4 / 3 * between
    r = 4 / 3 * between / within
    assert float(found.estimate) == 3 and float(found.error) == pytest.approx(math.sqrt(total), abs=1e-14)
    assert float(found.degrees) == pytest.approx(2 * (1 + 1 / r) ** 2, abs=1e-12)
    assert float(found.missing) == pytest.approx(4 / 3 * between / total, abs=1e-14)
    low, high = found.interval(0.9)
    reach = stats.t.ppf(0.95, float(found.degrees)) * math.sqrt(total)
    assert float(low) == pytest.approx(3 - reach) and float(high) == pytest.approx(3 + reach)


def test_tables_that_agree_leave_the_error_of_one():
    found = rubin(torch.ones(4, 2), torch.full((4, 2), 9.0))
    assert (found.error == 3).all() and found.degrees.isinf().all() and (found.missing == 0).all()
    low, high = found.interval()
    assert (high - 1 - 3 * 1.959963984540054).abs().max() < 1e-12 and (low + high - 2).abs().max() < 1e-12
    certain = rubin(torch.ones(3, 1), torch.zeros(3, 1))
    assert (certain.error == 0).all() and (certain.missing == 0).all()


def test_proper_imputations_of_half_a_sample_cover():
    """The mean of N(mu, 1), half of it missing at random: mu* ~ p(mu | observed), then the missing. 4,000 repetitions."""
    R, N, n, M = 4000, 60, 30, 10
    torch.manual_seed(0)
    seen = torch.randn(R, n)
    mu = seen.mean(1) + torch.randn(M, R) / math.sqrt(n)
    completed = torch.cat([seen.expand(M, R, n), mu[..., None] + torch.randn(M, R, N - n)], -1)
    pooled = rubin(completed.mean(-1), torch.full((M, R), 1 / N))
    low, high = pooled.interval(0.95)
    share = ((low < 0) & (high > 0)).double().mean()
    assert abs(float(share) - 0.95) < 5 * math.sqrt(0.95 * 0.05 / R) + 0.005  # t's degrees are an approximation
    assert abs(float(pooled.missing.mean()) - 0.5) < 0.05
    improper = torch.cat([seen.expand(M, R, n), seen.mean(1)[:, None] + torch.randn(M, R, N - n)], -1)
    low, high = rubin(improper.mean(-1), torch.full((M, R), 1 / N)).interval(0.95)
    assert ((low < 0) & (high > 0)).double().mean() < 0.93  # the doc's warning


@pytest.mark.parametrize(
    ("estimates", "variances"),
    [
        (torch.ones(1), torch.ones(1)),
        (torch.ones(3), torch.ones(2)),
        (torch.tensor(1.0), torch.tensor(1.0)),
        (torch.ones(3), -torch.ones(3)),
        (torch.tensor([1.0, math.nan]), torch.ones(2)),
    ],
)
def test_what_cannot_be_pooled_is_refused(estimates, variances):
    with pytest.raises(ppvae.Problem):
        rubin(estimates, variances)


def test_a_level_is_a_share():
    with pytest.raises(ppvae.Problem, match="level is 95"):
        rubin(torch.ones(2), torch.ones(2)).interval(95)


# --- conformal intervals ----------------------------------------------------------------------------------


def test_one_entry_a_row_is_the_order_statistic():
    """The ceil((N + 1) level)-th smallest score."""
    torch.manual_seed(0)
    for N, level in ((9, 0.9), (40, 0.9), (99, 0.95), (57, 0.5)):
        truth = torch.randn(N, 1)
        found = conformal(torch.zeros(N, 1), torch.ones(N, 1), truth, torch.ones(N, 1, dtype=torch.bool), level)
        assert found == float(truth.abs().flatten().sort().values[math.ceil((N + 1) * level) - 1])


def exact_moments(N, seed):
    made, _, _ = linear_gaussian(D=6, K=2, seed=4)
    torch.manual_seed(seed)
    d = made.decoder
    with torch.no_grad():
        x = made.model(size=N)
    mask = torch.rand(N, 6) > 0.2 + 0.6 * torch.rand(N, 1)  # few or many entries of a row are hidden
    q = exact.posterior(d.W, d.loc, d.scale, x, mask)
    spread = ((d.W @ q.scale_tril).square().sum(-1) + d.scale**2).sqrt()
    return x, exact.impute_mean(d.W, d.loc, d.scale, x, mask).detach(), spread.detach(), ~mask


def test_of_a_pair_that_is_right_the_factor_tends_to_its_own_quantile():
    x, mean, scale, hidden = exact_moments(20_000, 0)
    for level in (0.5, 0.9):
        z = stats.norm.ppf((1 + level) / 2)
        error = math.sqrt(level * (1 - level) / len(x)) / (2 * stats.norm.pdf(z))  # of a quantile, one entry a row
        assert abs(conformal(mean, scale, x, hidden, level) - z) < 5 * error


def test_whatever_the_pair_is_worth_the_intervals_hold():
    """Too sure by half: 30 rows stretch the intervals so that new rows' are held, on average over calibrations."""
    x, mean, scale, hidden = exact_moments(66_000, 1)
    rows = hidden.any(1)
    x, mean, scale, hidden = (t[rows][:60_000].reshape(1000, 60, 6) for t in (x, mean, 0.5 * scale, hidden))
    held = []
    for part in range(1000):
        one, new = (tuple(t[part, side] for t in (mean, scale, x, hidden)) for side in (slice(30), slice(30, 60)))
        c = conformal(*one, level=0.8)
        m, s, truth, missing = new
        inside = ((truth - m).abs() <= c * s) & missing
        held.append((inside.sum(1) / missing.sum(1)).mean())
    held = torch.stack(held)
    assert held.mean() > 0.8 - 5 * held.std() / math.sqrt(1000)
    assert held.mean() < 0.8 + 1 / 31 + 5 * held.std() / math.sqrt(1000)  # and are hardly longer than needed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": 1.5}, "level is 1.5"),
        ({"level": 0.99}, "20 rows have hidden entries"),
        ({"hidden": torch.zeros(20, 2, dtype=torch.bool)}, "0 rows have hidden entries"),
        ({"hidden": torch.ones(20, 2)}, "hidden holds torch.float"),
        ({"truth": torch.ones(20, 3)}, "shapes are"),
        ({"scale": torch.zeros(20, 2)}, "no finite score"),
        ({"truth": torch.full((20, 2), math.nan)}, "no finite score"),
    ],
)
def test_calibration_that_cannot_be_had_is_said(change, words):
    given = {"mean": torch.zeros(20, 2), "scale": torch.ones(20, 2), "truth": torch.ones(20, 2)}
    given |= {"hidden": torch.ones(20, 2, dtype=torch.bool), "level": 0.9}
    with pytest.raises(ppvae.Problem, match=words):
        conformal(
            **{**given, **{k: v.double() if k != "hidden" and torch.is_tensor(v) else v for k, v in change.items()}}
        )
