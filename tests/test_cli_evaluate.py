"""`ppvae evaluate`: calibration by simulated rows, intervals before and after they are stretched, Pareto's k at its threshold."""

import json

import pytest
import torch

import ppvae
from ppvae import data
from ppvae.cli.scoring import column_means, intervals
from ppvae.evaluate import interval, pareto_threshold


@pytest.fixture
def saved(ppvae_):
    """A story of breast cells with its exact guide, and with that of mean-filled rows."""
    for guide in ("exact", "fca"):
        made = ppvae.make(f"factor_analysis_{guide}", features=30, latents=2)
        torch.manual_seed(0)
        made.decoder.set_(0.7 * torch.randn(30, 2), torch.zeros(30), torch.full((30,), 0.8))
        ppvae.save(made, f"{guide}.pt", data="breast")
    return lambda *words: ppvae_("evaluate", *words, "--data", "breast", "--particles", 20)


def figures(name):
    return json.load(open(name))["results"]


def test_the_exact_guide_passes_and_that_of_filled_rows_does_not(saved):
    words = ("--rows", 0, "--hide", 0.5, "--calibrate", "--figure")
    code, out, err = saved("exact.pt", *words, "a.png", "--json", "a.json")
    assert code == 0, err
    right = figures("a.json")["calibration"]
    assert right["sbc_p_value"].keys() == {"z", "x"} and right["hide"] == 0.5
    assert min(right["tarp_p_value"], *right["sbc_p_value"].values()) > 1e-3
    assert "simulated by the pair with 50% hidden" in out and "hidden x" in out
    assert open("a.png", "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    assert saved("fca.pt", *words, "b.png", "--json", "b.json")[0] == 0
    wrong = figures("b.json")["calibration"]
    assert wrong["tarp_p_value"] < 1e-4 and wrong["sbc_p_value"]["z"] < 1e-4
    assert saved("fca.pt", "--rows", 0, "--calibrate", "--json", "c.json")[0] == 0
    whole = figures("c.json")["calibration"]  # on complete rows it is the exact posterior
    assert whole["tarp_p_value"] > 1e-3 and whole["sbc_p_value"].keys() == {"z"} and whole["sbc_p_value"]["z"] > 1e-3


def test_intervals_are_stretched_by_one_half_and_tested_on_the_other(saved):
    """Draws that are half as wide as they should be: the factor of a Gaussian, twice, and the coverage that follows."""
    generator = torch.Generator().manual_seed(1)
    x, drawn = torch.randn(4000, 3, generator=generator), 0.5 * torch.randn(99, 4000, 3, generator=generator)
    hidden = torch.rand(4000, 3, generator=generator) < 0.6
    halves = torch.arange(2000), torch.arange(2000, 4000)
    held = intervals(drawn, x, hidden, *halves)
    low, high = interval(drawn[:, 2000:], 0.9)
    inside = ((low <= x[2000:]) & (x[2000:] <= high))[hidden[2000:]].double().mean()
    assert held[1]["before"] == pytest.approx(float(inside), abs=1e-12)
    for one, level, before, factor in zip(held, (0.5, 0.9), (0.264, 0.589), (1.349, 3.290), strict=True):
        assert one["level"] == level and abs(one["before"] - before) < 0.04
        assert abs(one["factor"] - factor) < 0.2 and abs(one["after"] - level) < 5 * (0.25 / 2000) ** 0.5
    assert intervals(drawn.index_fill(1, torch.tensor([0]), 1.0), x, hidden | True, *halves) == []  # some do not vary
    code, out, err = saved("exact.pt", "--rows", 0, "--hide", 0.4, "--json", "a.json")
    assert code == 0 and "learned on the other half" in out, err
    assert [one["level"] for one in figures("a.json")["imputation"]["intervals"]] == [0.5, 0.9]


def test_paretos_k_is_held_to_the_threshold_of_its_draws(saved):
    assert saved("fca.pt", "--rows", 0, "--json", "a.json")[0] == 0
    found = figures("a.json")
    assert found["pareto_threshold"] == pareto_threshold(1000) < 0.67
    k = ppvae.condition(ppvae.load("fca.pt"), data.load("breast").rows("test")).diagnostics(1000)["pareto_k"]
    assert found["pareto_k_above_threshold"] == float((k > 2 / 3).double().mean()) == 0  # exact on complete rows


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rows", 5, "--calibrate"), "5 rows to test calibration by"),
        (("--rows", 12, "--hide", 0.3, "--calibrate"), "of 12 rows one half has 6 with hidden entries"),
        (("--figure", "a.png"), "without --calibrate"),
        (("--calibrate", "--figure", "there.png"), "there.png exists"),
        (("--calibrate", "--figure", "nowhere/a.png"), "no folder nowhere"),
    ],
)
def test_what_cannot_be_had_is_said_with_exit_code_2(saved, words, says):
    open("there.png", "w").write("mine")
    code, _, err = saved("exact.pt", *words)
    assert code == 2 and says in " ".join(err.split()) and "Traceback" not in err
    assert open("there.png").read() == "mine"


def test_few_rows_are_scored_without_stretching(saved):
    code, _, err = saved("exact.pt", "--rows", 6, "--hide", 0.3, "--json", "a.json")
    assert code == 0, err
    assert figures("a.json")["imputation"]["intervals"] == []


def test_means_of_columns_are_held_by_rubins_intervals_where_draws_are_right_and_not_where_they_are_shifted():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(500, 40, generator=generator)
    hidden = torch.rand(500, 40, generator=generator) < 0.5
    hidden[:, 0] = False
    fresh = torch.where(hidden, torch.randn(30, 500, 40, generator=generator), x)
    found = column_means(fresh, x, hidden)
    assert found["columns"] == 39 and found["held"] >= 36  # truth of the same rows: held more often than 95 %
    assert column_means(torch.where(hidden, fresh + 1, x), x, hidden) == {"columns": 39, "held": 0}
    x[3, 5] = torch.nan  # its truth is not known
    assert column_means(fresh, x, hidden)["columns"] == 38


def test_a_story_of_the_mask_is_not_given_other_gaps(ppvae_):
    ppvae.save(ppvae.make("factor_analysis_not_at_random", features=30, latents=2), "told.pt", data="breast")
    code, _, err = ppvae_("evaluate", "told.pt", "--hide", 0.5, "--calibrate", "--particles", 20)
    assert code == 2 and "says itself why entries are missing" in " ".join(err.split())
