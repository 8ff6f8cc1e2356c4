"""The command line: what it writes is what it says, and a wrong input ends with a message and exit code 2."""

import json
import math
import sys
from pathlib import Path

import arviz
import numpy as np
import pandas as pd
import pytest
import torch

import ppvae
from ppvae import exact


def table(path="holes.csv", rows=120, missing=0.2, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 1))
    x = 100 + 20 * (z @ np.array([[1.0, -1.0, 0.5, 2.0]]) + 0.3 * rng.normal(size=(rows, 4)))
    holes = np.where(rng.random(x.shape) < missing, np.nan, x)
    holes[np.isnan(holes).all(1), 0] = 100.0
    pd.DataFrame(holes, columns=["a", "b", "c", "d"]).to_csv(path, index=False)
    return x, holes


def test_list_and_info(ppvae_):
    code, out, _ = ppvae_("list", "--json", "list.json")
    assert code == 0 and set(json.load(open("list.json"))["results"]) == set(ppvae.names())
    code, out, _ = ppvae_("info", "--json", "info.json")
    assert (
        code == 0
        and json.load(open("info.json"))["results"]["versions"]["torch"] == torch.__version__
        and "digits" in out
    )


def test_fit_then_evaluate_gives_the_same_figures(ppvae_):
    words = ("--particles", 50, "--rows", 40)
    code, out, err = ppvae_(
        "fit", "vae", "--data", "digits_binary", "--latents", 3, "--epochs", 2, "--json", "fit.json", *words
    )
    assert code == 0, err
    fitted = json.load(open("fit.json"))["results"]
    assert fitted["training"]["step"] == "staged" and len(fitted["training"]["history"]) == 2
    assert "dynamic" in fitted["test"]["scaling"] and fitted["test"]["rows"] == 40 and fitted["test"]["particles"] == 50
    assert ppvae_("evaluate", "vae-digits_binary", "--json", "evaluate.json", *words)[0] == 0
    again = json.load(open("evaluate.json"))["results"]
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in fitted["test"].items() if k != "seconds"
    }
    assert again["elbo"] < again["log_evidence"] < 0


def test_hidden_entries_are_imputed_and_scored(ppvae_):
    """The figures of the command are those of the exact conditional, up to its 1000 draws of z."""
    assert (
        ppvae_("fit", "factor_analysis_exact", "--data", "breast", "--latents", 3, "--epochs", 40, "-o", "fa")[0] == 0
    )
    assert ppvae_("evaluate", "fa", "--rows", 0, "--hide", 0.4, "--seed", 5, "--json", "e.json")[0] == 0
    found = json.load(open("e.json"))["results"]["imputation"]
    x, fitted = ppvae.data.load("breast").rows("test"), ppvae.load("fa").decoder
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    with torch.no_grad():
        best = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, x, ~hidden)
    assert found["entries"] == int(hidden.sum())
    assert math.isclose(found["rmse"], float((best - x)[hidden].square().mean().sqrt()), rel_tol=0.01)
    assert 0 < found["crps"] < found["rmse"] and 0.5 < found["coverage"] <= 1
    code, _, err = ppvae_("evaluate", "fa", "--hide", 1e-7)
    assert code == 2 and "hides none" in err


def test_the_same_seed_gives_the_same_figures(ppvae_):
    for name in ("a", "b"):
        ppvae_(
            "fit",
            "factor_analysis_exact",
            "--latents",
            2,
            "--epochs",
            2,
            "-o",
            f"{name}.pt",
            "--json",
            f"{name}.json",
            "--rows",
            30,
        )
    a, b = (json.load(open(f"{name}.json"))["results"] for name in "ab")
    assert a["training"]["bound"] == b["training"]["bound"] and a["test"]["log_evidence"] == b["test"]["log_evidence"]


def test_fit_is_interrupted_and_goes_on(ppvae_, monkeypatch):
    words = (
        "fit",
        "vae",
        "--data",
        "digits_binary",
        "--latents",
        2,
        "--hidden",
        "16",
        "--epochs",
        4,
        "--rows",
        20,
        "--particles",
        20,
    )
    assert ppvae_(*words, "-o", "whole")[0] == 0
    from ppvae.fitting import checkpoint

    add = checkpoint.Checkpoint.add

    def stop(self, record):
        add(self, record)
        if record["epoch"] in (2, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "add", stop)
    code, _, err = ppvae_(*words, "-o", "cut")
    assert code == 130 and "stopped; ppvae fit --resume cut goes on" in err
    code, _, err = ppvae_(*words, "-o", "cut", "--seed", 3)
    assert code == 2 and "holds a run of another command: seed was 0" in err
    code, _, err = ppvae_("fit", "--resume", "cut", "--epochs", 9)
    assert code == 2 and "--resume stands beside epochs" in err
    assert ppvae_(*words, "-o", "cut")[0] == 130  # the same command goes on too
    monkeypatch.setattr(checkpoint.Checkpoint, "add", add)
    code, _, err = ppvae_("evaluate", "cut", "--rows", 5, "--particles", 5)
    assert code == 0 and "the run in cut is not finished" in err
    Path("cut").rename("moved")
    code, out, err = ppvae_("fit", "--resume", Path("moved").resolve())
    assert code == 0 and "going on in" in err and Path("moved/pair.pt").exists()
    Path("moved").rename("cut")
    whole, cut = ppvae.load("whole").state_dict(), ppvae.load("cut").state_dict()
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    code, _, err = ppvae_("fit", "--resume", "cut")
    assert code == 2 and "is finished" in err
    Path("cut/mine.txt").write_text("notes")
    kept = {path.name: path.read_bytes() for path in Path("cut").iterdir()}
    code, _, err = ppvae_(
        *words, "-o", "cut", "--force", "--learning-rate", "-1"
    )  # refused: the earlier run is still there
    assert code == 2 and {path.name: path.read_bytes() for path in Path("cut").iterdir()} == kept
    assert ppvae_(*words, "-o", "new", "--learning-rate", "-1")[0] == 2 and not Path("new").exists()
    assert ppvae_(*words, "-o", "cut")[0] == 2 and ppvae_(*words, "-o", "cut", "--force")[0] == 0
    assert Path("cut/mine.txt").exists() and not Path("cut/.replaced").exists()


def test_the_list_has_its_words_in_a_narrow_terminal_too(ppvae_, monkeypatch):
    from ppvae.cli import shared

    monkeypatch.setattr(shared.console, "width", 40)
    code, out, _ = ppvae_("list")
    assert code == 0 and "\nvae\n" in out and max(map(len, out.splitlines())) <= 40


def test_an_entry_that_the_data_lack_is_said(ppvae_):
    words = ("--epochs", 1, "--rows", 3, "--particles", 2)
    code, _, err = ppvae_("fit", "semi_supervised_vae", *words)
    assert code == 0 and "digits has no y: fitted without" in err
    assert "fitted without" not in ppvae_("fit", "vae", *words)[2]


def test_sigterm_outside_of_the_fit_ends_with_143(ppvae_, monkeypatch):
    from ppvae.cli.shared import Terminated

    for stop, wanted in ((Terminated, 143), (KeyboardInterrupt, 130)):

        def stopping(*_, stop=stop):
            raise stop

        monkeypatch.setattr(sys.modules["ppvae.cli.shared"], "read", stopping)
        assert ppvae_("evaluate", "run")[0] == wanted


def test_impute_completes_a_table_and_leaves_what_was_there(ppvae_):
    x, holes = table()
    before = open("holes.csv").read()
    code, out, err = ppvae_("impute", "holes.csv", "-o", "full.csv", "--json", "impute.json", "--latents", 2)
    assert code == 0, err
    assert open("holes.csv").read() == before
    full, seen = pd.read_csv("full.csv").to_numpy(), ~np.isnan(holes)
    assert not np.isnan(full).any() and np.array_equal(full[seen], pd.read_csv("holes.csv").to_numpy()[seen])
    record = json.load(open("impute.json"))["results"]
    assert record["missing"] == int((~seen).sum()) and record["score"]["rmse"] < record["score"]["rmse_mean"]
    # the exact conditional means of a factor analysis that is fitted independently here
    mean, sd = np.nanmean(holes, 0), np.nanstd(holes, 0)
    z = torch.as_tensor((holes - mean) / sd)
    fitted = exact.em(z, 2, iterations=1000, tolerance=1e-5)
    by_hand = exact.impute_mean(fitted.W, fitted.loc, fitted.scale, z.nan_to_num(), ~z.isnan()).numpy() * sd + mean
    assert np.allclose(full, by_hand, rtol=1e-6)
    assert np.sqrt(np.mean((full - x)[~seen] ** 2)) < 0.6 * np.sqrt(np.mean((mean - x)[~seen] ** 2))


def test_impute_draws_tables_that_differ_where_cells_are_missing(ppvae_):
    x, holes = table(rows=60)
    assert ppvae_("impute", "holes.csv", "-o", "full.csv", "--draws", 200)[0] == 0
    frame, full = pd.read_csv("full.draws.csv"), pd.read_csv("full.csv").to_numpy()
    assert list(frame.columns) == ["draw", "a", "b", "c", "d"] and sorted(set(frame["draw"])) == list(range(1, 201))
    draws = frame.drop(columns="draw").to_numpy().reshape(200, 60, 4)
    missing = np.isnan(holes)
    assert (draws[:, ~missing] == draws[0, ~missing]).all() and (draws[:, missing].std(0) > 0).all()
    error = draws[:, missing].std(0) / np.sqrt(200)  # their mean is the conditional mean
    assert (np.abs(draws[:, missing].mean(0) - full[missing]) < 5 * error).all()
    assert ppvae_("impute", "holes.csv", "-o", "new.csv", "--draws", 2)[0] == 0
    code, _, err = ppvae_("impute", "holes.csv", "-o", "full.other.csv", "--draws", -1)
    assert code == 2 and "draws" in err


def test_impute_writes_observed_cells_as_they_stood(ppvae_):
    lines = ["a,b,c"] + [f"{i:03d},{i * 2}.1240,{12345678901234567 + i}" for i in range(1, 30)]
    lines[5] = "005,,12345678901234572"
    with open("exact.csv", "w") as file:
        file.write("\n".join(lines) + "\n")
    assert ppvae_("impute", "exact.csv", "-o", "full.csv")[0] == 0
    full = open("full.csv").read().splitlines()
    assert [line for i, line in enumerate(full) if i != 5] == [line for i, line in enumerate(lines) if i != 5]
    assert (
        full[5].startswith("005,")
        and full[5].endswith(",12345678901234572")
        and abs(float(full[5].split(",")[1]) - 10.124) < 0.5
    )


@pytest.mark.slow
def test_the_demo_writes_a_picture_and_a_file_that_arviz_reads(ppvae_):
    code, out, err = ppvae_("demo", "--json", "demo.json")
    assert code == 0, err
    found = json.load(open("demo.json"))["results"]
    assert found["factor analysis, exact"]["mse"] < 0.6 * found["column mean"]["mse"]
    assert found["VAE"]["mse"] < 0.6 * found["column mean"]["mse"]
    assert open("demo/imputation.png", "rb").read(4) == b"\x89PNG"
    assert set(arviz.from_netcdf("demo/posterior.nc").groups()) >= {"posterior", "log_likelihood", "observed_data"}


def bad_tables():
    table("good.csv")
    frame = pd.read_csv("good.csv")
    frame.assign(b=np.nan).to_csv("empty_column.csv", index=False)
    frame.assign(c=3.0).to_csv("constant.csv", index=False)
    frame.assign(a=frame["a"].astype(object).where(frame.index != 3, "many")).to_csv("words.csv", index=False)
    frame.assign(a=np.where(frame.index == 3, np.inf, 1.0 + frame.index)).to_csv("infinite.csv", index=False)
    frame.fillna(1.0).to_csv("complete.csv", index=False)
    frame.assign(**{c: frame[c].where(frame.index != 7) for c in frame}).to_csv("empty_row.csv", index=False)
    frame[:1].to_csv("one_row.csv", index=False)
    frame.to_csv("in.draws.csv", index=False)
    frame.to_csv("semicolons.csv", index=False, sep=";")
    open("nothing.csv", "w").close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("impute", "absent.csv"), "absent.csv"),
        (("impute", "empty_column.csv"), "'b'"),
        (("impute", "constant.csv"), "'c'"),
        (("impute", "words.csv"), "many"),
        (("impute", "infinite.csv"), "inf"),
        (("impute", "complete.csv"), "no cell"),
        (("impute", "empty_row.csv"), "line 9"),
        (("fit", "vae", "--data", "empty_row.csv"), "line 9"),
        (("impute", "one_row.csv"), "1 row"),
        (("impute", "semicolons.csv"), ";"),
        (("impute", "nothing.csv"), "empty"),
        (("impute", "good.csv", "--latents", "4"), "latents"),
        (("impute", "good.csv", "--json", "good.csv"), "same file"),
        (("impute", "good.csv", "-o", "new.csv", "--json", "new.csv"), "same file"),
        (("impute", "good.csv", "--json", "complete.csv"), "does not hold figures"),
        (("reproduce", "thesis-4.1", "--json", "good.csv"), "does not hold figures"),
        (("fit", "vae", "--data", "constant.csv"), "'c'"),
        (("fit", "vae", "--data", "empty_column.csv"), "'b'"),
        (("reproduce", "thesis-9.9"), "thesis-9.9"),
        (("impute", "good.csv", "--seed", "99999999999999999999"), "seed"),
        (("impute", "good.csv", "-o", "nowhere/out.csv"), "nowhere"),
        (("impute", "good.csv", "-o", "out.xlsx"), ".xlsx file"),
        (("impute", "good.csv", "-o", "good.csv"), "exists"),
        (("impute", "good.csv", "-o", "good.csv", "--force"), "the output is the input"),
        (("impute", "in.draws.csv", "-o", "in.csv", "--draws", "2", "--force"), "the output is the input"),
        (("fit", "vea"), "vea"),
        (("fit", "vae", "--data", "nist"), "nist"),
        (("fit", "vae", "--objective", "elbow"), "elbow"),
        (("fit", "vae", "--hidden", "wide"), "wide"),
        (("fit", "vae", "--likelihood", "poisson"), "poisson"),
        (("fit", "vae", "--mechanism", "agnostic"), "mechanism"),
        (("fit", "vae_not_at_random", "--mechanism", "sign"), "sign"),
        (("fit", "vae", "--batch-size", "100000"), "batch_size"),
        (("fit", "vae", "--device", "abacus"), "abacus"),
        (("fit", "vae", "--likelihood", "bernoulli"), "Bernoulli"),
        (("fit", "bayesian_linear"), "inputs"),
        (("fit", "vae", "--learning-rate", "-1"), "learning_rate"),
        (("fit", "vae", "--epochs", "0"), "epochs"),
        (("fit", "vae", "--json", "nowhere/a.json"), "nowhere"),
        (("fit", "vae", "-o", "good.csv"), "is a file"),
        (("fit",), "no pair is named"),
        (("fit", "--resume", "nowhere"), "nowhere holds no run"),
        (("evaluate", "."), "pair.pt"),
        (("evaluate", "absent.pt"), "absent.pt"),
        (("evaluate", "good.csv"), "cannot be read"),
        (("dance",), "dance"),
    ],
)
def test_a_wrong_input_ends_with_a_message_and_exit_code_2(ppvae_, words, says, tmp_path):
    bad_tables()
    there = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    if words[0] == "impute" and "-o" not in words:
        words = (*words, "-o", "out.csv")
    code, out, err = ppvae_(*words)
    assert code == 2 and says in err, (code, err)
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == there  # nothing half-written, nothing lost


def test_hiding_cells_never_leaves_a_column_without_spread():
    from ppvae.exact.choice import spared

    z = torch.tensor([[1.0, 1.0], [1.0, 2.0], [2.0, 3.0], [1.0, torch.nan]])
    hidden = torch.tensor([[False, True], [False, False], [True, False], [False, True]])
    assert spared(z, hidden).tolist() == [[False, True], [False, False], [False, False], [False, False]]
