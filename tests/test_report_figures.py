"""Figures of the report: intervals stretched until they hold, and column means pooled over completed tables."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ppvae.report.pooled import means
from ppvae.report.scores import scores


def hidden_cells(N=4000, D=3, wide=1.0, seed=0):
    """Cells of N(0, 1) whose draws have ``wide`` times that scale: (draws, truth, where they stand)."""
    rng = np.random.default_rng(seed)
    hidden = torch.from_numpy(rng.random((N, D)) < 0.3)
    M = int(hidden.sum())
    return wide * rng.normal(size=(99, M)), rng.normal(size=M), hidden


@pytest.mark.parametrize("wide", [0.5, 1.0, 2.0])
def test_intervals_are_stretched_by_what_their_draws_lack(wide):
    draws, truth, hidden = hidden_cells(wide=wide)
    found = scores(draws, truth, np.zeros_like(truth))
    c = found.stretch(hidden)
    assert (
        abs(c * wide / stats.norm.ppf(0.95) - 1) < 0.06
    )  # 3,600 cells: the quantile's error is 0.02, and 99 draws' spread
    fresh, values, _ = hidden_cells(wide=wide, seed=1)
    held = np.abs(values - fresh.mean(0)) <= c * fresh.std(0)
    assert abs(held.mean() - 0.9) < 5 * math.sqrt(0.09 / len(held)) + 0.005


def test_cells_stand_where_they_were_hidden():
    """Two cells of one row count half each; of one row with a cell the whole."""
    hidden = torch.zeros(30, 2, dtype=torch.bool)
    hidden[:, 0] = True
    hidden[:15, 1] = True
    truth = np.arange(45.0, 0.0, -1.0)
    draws = np.tile([[-1.0], [1.0]], (20, 45))  # mean 0, standard deviation 1
    found = scores(draws, truth, np.zeros(45))
    by_row = torch.zeros(30, 2, dtype=torch.float64)
    by_row[hidden] = torch.from_numpy(np.abs(truth))
    weight = hidden / hidden.sum(1, keepdim=True) / 31
    order = by_row[hidden].argsort()
    place = int((weight[hidden][order].cumsum(0) < 0.9).sum())
    assert found.stretch(hidden) == float(by_row[hidden][order][place])


def test_too_few_rows_and_draws_that_agree_are_not_stretched():
    draws, truth, hidden = hidden_cells(N=40)
    few = hidden & (torch.arange(40)[:, None] < 15)
    assert scores(draws[:, : int(few.sum())], truth[: int(few.sum())], truth[: int(few.sum())]).stretch(few) is None
    draws[:, 0] = 1.0
    assert scores(draws, truth, truth).stretch(hidden) is None


def test_means_are_pooled_by_rubins_rules():
    torch.manual_seed(0)
    draws = torch.randn(20, 50, 2)
    draws[..., 0] += torch.randn(20, 1)  # one column whose completed tables differ
    found = means(draws, ["a", "b"])
    for j, name in enumerate("ab"):
        Q, U = draws[..., j].mean(1), draws[..., j].var(1) / 50
        T = U.mean() + 1.05 * Q.var()
        degrees = 19 * (1 + U.mean() / (1.05 * Q.var())) ** 2
        reach = stats.t.ppf(0.975, degrees.item()) * T.sqrt()
        assert math.isclose(found[name]["mean"], Q.mean(), rel_tol=1e-12)
        assert math.isclose(found[name]["high"] - found[name]["low"], 2 * reach, rel_tol=1e-12)
        assert math.isclose(found[name]["missing"], 1.05 * Q.var() / T, rel_tol=1e-12)
    assert found["a"]["missing"] > 0.9
