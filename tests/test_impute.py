"""`ppvae impute` on tables as people have them: text, Parquet, a report, and every table that it refuses."""

import csv
import datetime
import importlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ppvae import Problem, data, exact
from ppvae.imputation import complete, ways, worth_trying
from ppvae.report.hidden import hide
from ppvae.report.scores import scores

impute = importlib.import_module("ppvae.cli.impute")  # the package's name of it is the command
N = 60
DRAWS = 199
FACTORS = "Factor analysis", "Factor analysis, warped columns"
GAUSSIANS = "Gaussian, uncertain parameters", "Gaussian, uncertain parameters, warped columns"
MIXTURES = ("Gaussian mixture", "Gaussian mixture, warped columns")


def numbers(missing=0.2, seed=0, rows=N):
    """Four columns of one factor, with holes, each row with a number."""
    rng = np.random.default_rng(seed)
    x = 100 + 20 * (rng.normal(size=(rows, 1)) * [1.0, -1.0, 0.5, 2.0] + 0.3 * rng.normal(size=(rows, 4)))
    x[rng.random(x.shape) < missing] = np.nan
    x[np.isnan(x).all(1), 0] = 100.0
    return x


def written(x, name="t.csv", header='id,a,"b, c",d,e,note', ending="\n", mark=""):
    """A file of numbers between two columns of text, written as several programs would: (lines, their cells)."""
    notes = ["", "plain", '"in, quotes"', '"two\nlines"', ' "say ""hi"""', "  led by blanks ", "n/a", '""', "É ¢"]
    rows = [header.split(",") if '"' not in header else ["id", "a", '"b, c"', "d", "e", "note"]]
    for n, row in enumerate(x):
        cells = [("" if n % 5 else "NA") if np.isnan(v) else f"{v:08.3f}" + "0" * (n % 3) for v in row]
        rows.append([f'"{n:03d}x"', *cells, notes[n % len(notes)]])
    Path(name).write_bytes((mark + "".join(",".join(row) + ending for row in rows)).encode())
    return rows


@pytest.mark.parametrize(("ending", "mark"), [("\n", ""), ("\r\n", "\ufeff")], ids=["unix", "excel"])
def test_every_cell_that_is_no_hole_is_written_as_it_was_byte_for_byte(ppvae_, ending, mark):
    x = numbers()
    rows = written(x, ending=ending, mark=mark)
    before = Path("t.csv").read_bytes()
    code, out, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--draws", 2)
    assert code == 0, err
    assert Path("t.csv").read_bytes() == before
    assert "2 columns that are not numbers passed through: id, note" in out
    full = list(csv.reader(open("full.csv", newline="", encoding="utf-8-sig"), skipinitialspace=True))
    filled = iter([full[n + 1][j + 1] for n, j in np.argwhere(np.isnan(x))])
    for n, row in enumerate(x):
        for j in np.flatnonzero(np.isnan(row)):
            rows[n + 1][j + 1] = next(filled)
            assert np.isfinite(float(rows[n + 1][j + 1]))
    assert Path("full.csv").read_bytes() == (mark + "".join(",".join(row) + ending for row in rows)).encode()
    drawn = Path("full.draws.csv").read_bytes().decode()
    assert drawn.startswith(mark + 'draw,id,a,"b, c",d,e,note' + ending)
    again = list(csv.reader(open("full.draws.csv", newline="", encoding="utf-8-sig"), skipinitialspace=True))
    assert [row[0] for row in again[1:]] == ["1"] * N + ["2"] * N
    assert [row[-1] for row in again[1:]] == [row[-1] for row in full[1:]] * 2


def test_a_cell_says_what_pythons_reader_of_csv_says(tmp_path):
    rng = np.random.default_rng(0)
    pieces = ["a", "1.5", " ", "é", '"x"', '"a,b"', '"a ""b"" c"', '"l\nm"', '""', 'in"side', "NA", '"\r\n "']
    for trial in range(200):
        table = [["c0", "c1", "c2"]] + [list(rng.choice(pieces, 3)) for _ in range(4)]
        ending = ["\n", "\r\n", "\r"][trial % 3]
        path = tmp_path / "t.csv"
        path.write_bytes(ending.join(",".join(row) for row in table).encode() + b"\n" * (trial % 2))
        lines = data.lines.scan(path)
        expected = list(csv.reader(open(path, newline=""), strict=True))
        assert [lines.names] + [list(map(data.lines.meant, row)) for row in lines.rows] == expected
        if ending == "\n":
            ends = np.cumsum([1 + sum(len(re.findall("\r\n|\n", cell)) for cell in row) for row in table])
            assert lines.numbers == ends[1:].tolist()


def test_a_column_is_text_if_fewer_than_half_of_its_cells_are_numbers(tmp_path):
    path = tmp_path / "t.csv"
    for words, text in [(0, False), (2, None), (3, True), (4, True)]:  # of 4 cells that are not missing
        column = ["x"] * words + ["7"] * (4 - words) + ["", "NA"]
        path.write_text("n,c\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(column)))
        if text is None:
            with pytest.raises(Problem, match=r"'c' is not numeric: 'x' \(line 2\), 'x' \(line 3\)"):
                data.read_table(path, text="keep")
            continue
        table = data.read_table(path, text="keep")
        assert table.passed == ["c"] * text and table.columns == ["n"] + ["c"] * (not text)
        assert table.positions == [0] + [1] * (not text) and table.values.shape == (6, 2 - text)
    with pytest.raises(Problem, match="'c' is not numeric"):
        data.read_table(path)
    assert list(table.frame["c"]) == ["x"] * 4 + [None, "NA"]


# --- Parquet --------------------------------------------------------------------------------------


def typed(x):
    return pd.DataFrame(
        {
            "whole": pd.array(np.round(x[:, 0]), dtype="Float64").astype("Int64"),
            "half": x[:, 1].astype(np.float32),
            "double": x[:, 2],
            "exact": np.arange(N, dtype=np.int16),
            "name": [f"n{n}" if n % 4 else None for n in range(N)],
            "digits": [str(n) for n in range(N)],
            "kind": pd.Categorical(["u", "v", None] * (N // 3)),
            "day": [datetime.date(2020, 1, 1 + n % 28) for n in range(N)],
            "when": pd.date_range("2021", periods=N, freq="h", tz="UTC"),
            "yes": pd.array([True, None] * (N // 2), dtype="boolean"),
        },
        index=pd.Index([1000 + 3 * n for n in range(N)], name="key"),
    )


def test_parquet_keeps_types_text_and_index(ppvae_):
    frame = typed(numbers())
    frame.to_parquet("t.parquet")
    before = Path("t.parquet").read_bytes()
    code, out, err = ppvae_("impute", "t.parquet", "-o", "full.parquet", "--draws", 2)
    assert code == 0, err
    assert Path("t.parquet").read_bytes() == before
    assert "6 columns that are not numbers passed through: name, digits, kind, day, when, yes" in out
    was, full = pq.read_table("t.parquet"), pq.read_table("full.parquet")
    assert was.column_names == full.column_names
    for name in was.column_names:
        if name not in ("whole", "half", "double"):
            assert full[name].equals(was[name]) and full.schema.field(name) == was.schema.field(name)
    types = {"whole": pa.float64(), "half": pa.float32(), "double": pa.float64()}
    assert {name: full[name].type for name in types} == types
    read = pd.read_parquet("full.parquet")
    assert read.index.equals(frame.index)
    kept = [name for name in frame if name != "whole"]
    assert (read.dtypes[kept] == pd.read_parquet("t.parquet").dtypes[kept]).all() and read["whole"].dtype == float
    for name in types:
        seen = frame[name].notna().to_numpy()
        assert 0 < seen.sum() < N and read[name].notna().all()
        assert (read[name].to_numpy()[seen] == frame[name].to_numpy()[seen].astype(read[name].dtype)).all()
    drawn = pq.read_table("full.draws.parquet")
    assert drawn["draw"].to_pylist() == [1] * N + [2] * N and drawn.column_names == ["draw", *full.column_names]
    assert drawn["name"].to_pylist() == was["name"].to_pylist() * 2


def test_csv_and_parquet_give_the_same_numbers_whichever_way(ppvae_):
    x = numbers()
    frame = pd.DataFrame(x, columns=list("abcd")).assign(city=["Oslo", None, "NA"] * (N // 3))
    frame.to_csv("t.csv", index=False)
    frame.to_parquet("t.pq")
    for source in ("t.csv", "t.pq"):
        for goal in ("csv", "pq"):
            code, _, err = ppvae_("impute", source, "-o", f"{source[2:]}.{goal}", "--latents", 1)
            assert code == 0, err
    tables = [pd.read_csv(f"{s}.csv", keep_default_na=False, float_precision="round_trip") for s in ("csv", "pq")]
    tables += [pd.read_parquet(f"{s}.pq").fillna("") for s in ("csv", "pq")]
    for table in tables:
        assert list(table) == [*"abcd", "city"] and list(table["city"]) == ["Oslo", "", "NA"] * (N // 3)
        np.testing.assert_array_equal(table[list("abcd")].to_numpy(), tables[0][list("abcd")].to_numpy())
    seen = ~np.isnan(x)
    np.testing.assert_array_equal(tables[0][list("abcd")].to_numpy()[seen], x[seen])


def test_an_index_is_kept_where_it_says_something(ppvae_):
    x = numbers()
    for n, index in enumerate([None, [f"r{i}" for i in range(N)], pd.Index(range(5, 5 + 3 * N, 3))]):
        pd.DataFrame(x, index=index).to_parquet("t.parquet")  # the columns are called 0, 1, 2, 3
        for goal in ("parquet", "csv"):
            code, _, err = ppvae_("impute", "t.parquet", "-o", f"full{n}.{goal}", "--latents", 1)
            assert code == 0, err
        assert pd.read_parquet(f"full{n}.parquet").index.equals(pd.read_parquet("t.parquet").index)
    assert [open(f"full{n}.csv").readline() for n in range(3)] == ["0,1,2,3\n", ",0,1,2,3\n", "0,1,2,3\n"]


def test_without_pyarrow_parquet_is_refused_with_the_remedy(ppvae_, monkeypatch):
    written(numbers())
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = ppvae_("impute", "t.csv", "-o", "full.parquet")
    assert code == 2 and "pip install 'ppvae[parquet]'" in err and not Path("full.parquet").exists()


# --- the report -----------------------------------------------------------------------------------

HOSTILE = '<b>&"'


def with_report(ppvae_, *words, seed=3):
    frame = pd.DataFrame(numbers(rows=150), columns=["a", HOSTILE, "$x_{", "d"])
    frame.assign(**{"<i>who": "x"}).to_csv("t.csv", index=False)
    words = ("-o", "full.csv", "--report", "r.html", "--json", "r.json", "--seed", seed, "--force", *words)
    code, out, err = ppvae_("impute", "t.csv", *words)
    assert code == 0, err
    return Path("r.html").read_text(encoding="utf-8"), json.load(open("r.json"))["results"], out


def test_the_report_stands_alone_and_says_the_figures_of_json(ppvae_):
    page, found, out = with_report(ppvae_)
    text = re.sub(r'"data:image/png;base64,[^"]*"', '""', page)
    assert len(re.findall("data:image/png", page)) == 1 + 4
    for foreign in ("http", "<script", "@import", "url(", "//"):
        assert foreign not in text
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"] + [""] * 5
    assert HOSTILE not in text and "<i>who" not in text
    assert "&lt;b&gt;&amp;&#34;" in text and "&lt;i&gt;who" in text
    score = found["score"]
    said = " ".join(text.replace("\u00a0", " ").split())
    words = f"Of {score['entries']} hidden cells 90 % intervals held {score['held']} ({100 * score['coverage']:.1f} %)"
    assert words in said and score["held"] / score["entries"] == score["coverage"]
    assert f"intervals held {score['held']} ({100 * score['coverage']:.1f} %)" in out
    assert f"<td>{score['rmse']:.4g}</td>" in said and f"{score['rmse_mean']:.4g}" in said
    assert found["stretch"] > 0 and f"mean ± {found['stretch']:.4g} standard deviations" in said
    pooled = found["means"][HOSTILE]
    assert f"<td>{pooled['mean']:.4g}</td><td>{pooled['low']:.4g}</td><td>{pooled['high']:.4g}</td>" in said
    parts = found["by_column"].values()
    assert sum(part["entries"] for part in parts) == score["entries"]
    assert sum(part["held"] for part in parts) == score["held"]
    assert sum(part["missing"] for part in parts) == found["missing"]
    x = pd.read_csv("t.csv")["d"]
    again = [part["rmse"] / x.std(ddof=0) if name == "d" else None for name, part in found["by_column"].items()][-1]
    assert 0 < again < 0.6  # column d in its own units: most of its spread is the factor's


def test_the_same_seed_gives_the_same_page(ppvae_):
    def plain(page):
        return re.sub(r"Written [\d: -]+|[\d.]+ seconds", "", page)

    first, second, other = (with_report(ppvae_, seed=seed)[0] for seed in (3, 3, 4))
    assert plain(first) == plain(second) != plain(other)


def test_the_draws_do_not_depend_on_the_report(ppvae_):
    with_report(ppvae_, "--draws", 3)
    drawn = Path("full.draws.csv").read_bytes()
    assert ppvae_("impute", "t.csv", "-o", "full.csv", "--seed", 3, "--draws", 3, "--force")[0] == 0
    assert Path("full.draws.csv").read_bytes() == drawn


def test_no_hidden_cell_both_chooses_and_scores():
    z = torch.randn(2000, 8)
    z[torch.rand(z.shape) < 0.3] = torch.nan
    choosing, scoring = hide(z, 0)
    assert not (choosing & scoring).any() and not (z.isnan() & (choosing | scoring)).any()
    count = int((~z.isnan()).sum())
    for cells in (choosing, scoring):
        assert abs(cells.sum() - 0.1 * count) < 5 * (0.09 * count) ** 0.5
    assert torch.equal(scoring, hide(z, 0)[1]) and not torch.equal(scoring, hide(z, 1)[1])


def test_no_fit_that_chooses_sees_a_cell_that_scores(monkeypatch):
    x = torch.as_tensor(numbers(rows=100))
    choosing, scoring = hide(x, 0)
    seen = []

    def spy(z, draws, seed):
        seen.append(z)
        return ways.column_means(z, draws, seed)

    tried = {"spy": ways.Way(spy, False), "means": ways.WAYS["Column means"]}
    found = impute.decide(x, tried, choosing, scoring, 0)
    changed = torch.where(scoring, 1e4 * x, x)
    assert impute.decide(changed, tried, choosing, scoring, 0) == found and torch.equal(*map(torch.nan_to_num, seen))
    assert seen[0][choosing | scoring].isnan().all() and not seen[0][~x.isnan() & ~choosing & ~scoring].isnan().any()
    assert impute._mean_error(x, choosing, scoring) == impute._mean_error(changed, choosing, scoring)
    assert abs(impute._mean_error(x, choosing, scoring) - found.scores["means"].rmse) < 1e-12
    assert impute.decide(torch.where(choosing, 9.0, x), tried, choosing, scoring, 0).scores != found.scores
    first = impute._scores(x, tried["spy"], scoring, 0)
    impute._scores(changed, tried["spy"], scoring, 0)
    assert seen[-2][scoring].isnan().all() and not seen[-2][choosing].isnan().any()
    assert torch.equal(*map(torch.nan_to_num, seen[-2:])) and len(first.truth) == int(scoring.sum())


def lognormal(rows=150):
    rng = np.random.default_rng(1)
    x = np.exp(rng.normal(size=(rows, 1)) * [1.5, -1.2, 1.0, 1.4] + 0.4 * rng.normal(size=(rows, 4)))
    x[rng.random(x.shape) < 0.2] = np.nan
    x[np.isnan(x).all(1), 0] = 1.0
    pd.DataFrame(x, columns=list("abcd")).to_csv("t.csv", index=False)
    return x


def test_amounts_are_completed_on_warped_columns_and_json_page_and_terminal_say_so(ppvae_):
    x = lognormal()
    code, out, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--report", "r.html", "--json", "r.json", "--draws", 3)
    assert code == 0, err
    found, page = json.load(open("r.json"))["results"], " ".join(Path("r.html").read_text(encoding="utf-8").split())
    way = found["way"]
    assert way.endswith("warped columns") and repr(way) in out and f"Completed by <strong>{way}</strong>" in page
    assert ways.WAYS[way].says == found["says"] and found["says"] in page
    assert tuple(found["tried"]) == FACTORS + GAUSSIANS
    assert found["tried"][way]["crps"] == min(tried["crps"] for tried in found["tried"].values())
    for name, tried in found["tried"].items():
        row = f"{name}{' (chosen)' if name == way else ''}</td><td>{tried['rmse']:.4g}</td><td>{tried['crps']:.4g}</td>"
        assert row + f"<td>{100 * tried['coverage']:.1f}\u00a0%</td>".replace("\u00a0", " ") in page.replace(
            "\u00a0", " "
        )
    assert tuple(tried["entries"] for tried in found["tried"].values()) == (found["hidden"],) * 4
    assert found["draws"] == found["score_draws"] == DRAWS and f"{DRAWS} draws of each missing cell" in page
    assert ("factors" in page) == ("latents" in found["fit"])
    full, drawn = pd.read_csv("full.csv").to_numpy(), pd.read_csv("full.draws.csv")
    by_hand = complete(torch.as_tensor(x), ways.WAYS[way], DRAWS, 0).draws
    np.testing.assert_allclose(full, by_hand.mean(0).numpy(), rtol=1e-9)
    np.testing.assert_allclose(drawn.drop(columns="draw").to_numpy(), by_hand[:3].reshape(-1, 4).numpy(), rtol=1e-9)
    assert full.min() > 0


def test_latents_force_factor_analysis_on_standardised_columns(ppvae_):
    x = lognormal()
    words = ("-o", "full.csv", "--latents", 2, "--report", "r.html", "--json", "r.json")
    code, out, err = ppvae_("impute", "t.csv", *words)
    assert code == 0, err
    found, page = json.load(open("r.json"))["results"], " ".join(Path("r.html").read_text(encoding="utf-8").split())
    assert found["way"] == "Factor analysis" and found["tried"] == {} and found["rmse_hidden_mean"] is None
    assert found["fit"]["latents"] == 2 and found["fit"]["rmse_by_latents"] == {} and "with 2 factors" in out
    assert (
        "nothing else was tried" in page and f"by {found['fit']['iterations']} iterations of EM on standardised" in page
    )
    mean, sd = np.nanmean(x, 0), np.nanstd(x, 0)
    z = torch.as_tensor((x - mean) / sd)
    fitted = exact.em(z, 2, iterations=1000, tolerance=1e-5)
    by_hand = exact.impute_mean(*fitted[:3], z.nan_to_num(), ~z.isnan()).numpy() * sd + mean
    np.testing.assert_allclose(pd.read_csv("full.csv").to_numpy(), by_hand, rtol=1e-6)
    code, _, err = ppvae_("impute", "t.csv", "-o", "new.csv", "--latents", 2, "--deep")
    assert code == 2 and "--deep" in err and not Path("new.csv").exists()


def test_deep_tries_mixtures_and_a_vae_too(ppvae_, monkeypatch):
    trained = []
    monkeypatch.setattr(ways, "VAE_STEPS", 3)
    monkeypatch.setattr(ways, "fit", lambda *a, fit=ways.fit, **k: trained.append(k["epochs"]) or fit(*a, **k))
    lognormal()
    code, _, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--json", "r.json", "--deep")
    assert code == 0, err
    assert tuple(json.load(open("r.json"))["results"]["tried"]) == (
        *FACTORS,
        *GAUSSIANS,
        *MIXTURES,
        "VAE, warped columns",
    )
    assert trained == [1]  # of 64 rows a batch: 3 steps are one epoch of 150 rows


def test_no_covariance_is_drawn_where_that_takes_minutes():
    assert tuple(worth_trying(torch.zeros(5000, 40))) == FACTORS + GAUSSIANS
    assert tuple(worth_trying(torch.zeros(10_000, 40))) == FACTORS
    assert tuple(worth_trying(torch.zeros(10_000, 40), deep=True)) == (*FACTORS, "VAE, warped columns")


@pytest.mark.parametrize("draws", [0, 300])
def test_more_draws_than_memory_holds_are_refused_with_what_fits(ppvae_, monkeypatch, draws):
    lognormal()
    monkeypatch.setattr(impute, "MOST", 250 * 600 if draws else 600)
    code, _, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--draws", draws)
    assert code == 2 and ("--draws 250" if draws else "199 draws of 150 rows") in " ".join(err.split())
    assert ("fewer rows" in err) == (not draws) and not Path("full.csv").exists()


@pytest.mark.filterwarnings("ignore:the completed cells are no better")
@pytest.mark.parametrize("rows", [3, 5, 12])
def test_a_handful_of_rows_is_completed_too(ppvae_, rows):
    x = numbers(0, rows=rows)
    x[0, 0] = x[1, 2] = np.nan
    pd.DataFrame(x, columns=list("abcd")).to_csv("t.csv", index=False)
    code, _, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--report", "r.html", "--json", "r.json")
    assert code == 0, err
    assert np.isfinite(pd.read_csv("full.csv").to_numpy()).all()
    found, page = json.load(open("r.json"))["results"], Path("r.html").read_text(encoding="utf-8")
    assert bool(found["tried"]) == bool(found["hidden"]) == ("nothing was tried" not in page)


@pytest.mark.slow
def test_breast_is_completed_better_than_by_factors_and_its_intervals_hold(ppvae_):
    """569 x 30, half missing."""
    from sklearn.datasets import load_breast_cancer

    x = load_breast_cancer(as_frame=True).data
    seen = data.mcar(x.to_numpy(), 0.5, 0).numpy()
    x.where(seen)[seen.any(1)].to_csv("t.csv", index=False)
    code, _, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--json", "r.json")
    assert code == 0, err
    found = json.load(open("r.json"))["results"]
    assert found["way"] == GAUSSIANS[1]
    assert 0.86 < found["score"]["coverage"] < 0.95
    holes = torch.as_tensor(x.where(seen).to_numpy())

    def error(mean):
        return (((mean - x) / x.std())[~seen] ** 2).stack().mean() ** 0.5

    factors = complete(holes, ways.WAYS["Factor analysis"], 19).mean.numpy()
    assert error(pd.read_csv("full.csv").to_numpy()) < 0.95 * error(factors)


def test_scores_of_draws_from_the_truth_itself():
    rng = np.random.default_rng(0)
    M = 4000
    center = rng.normal(size=M)
    truth = center + rng.normal(size=M)
    draws = center + rng.normal(size=(DRAWS, M))
    found = scores(draws, truth, np.zeros(M))
    by_hand = [
        np.abs(draws[:, m] - truth[m]).mean()
        - np.abs(draws[:, m, None] - draws[:, m]).sum() / (2 * DRAWS * (DRAWS - 1))
        for m in range(20)
    ]
    np.testing.assert_allclose(found.crps[:20], by_hand, rtol=1e-10)
    ordered = np.sort(draws, 0)  # 180 of the 200 gaps that a 200th draw falls into lie between these two
    assert np.array_equal(found.low, ordered[9]) and np.array_equal(found.high, ordered[189])
    figures = found.of()
    assert abs(figures["coverage"] - 0.9) < 5 * (0.09 / M) ** 0.5
    assert abs(figures["crps"] - np.pi**-0.5) < 5 * found.crps.std() / M**0.5  # of N(0, 1) that is right
    expected = (1 + 1 / DRAWS) ** 0.5
    assert abs(figures["rmse"] - expected) < 5 * expected / (2 * M) ** 0.5
    assert abs(figures["rmse_mean"] - np.sqrt(np.mean(truth**2))) < 1e-12
    assert figures["crps_mean"] == np.abs(truth).mean() and not found.no_better
    some = found.of(np.arange(M) < 7, 0.5)
    assert some["entries"] == 7 and abs(some["crps"] - 2 * found.crps[:7].mean()) < 1e-12
    assert found.of(np.zeros(M, bool)) == {"entries": 0}


def test_the_fit_that_scores_agrees_with_dense_gaussians():
    """The conditional laws of hidden cells, by the dense covariance of a fit in which they are missing."""
    x = torch.as_tensor(numbers(rows=150)) * torch.tensor([1.0, 10.0, 0.1, 1.0])
    scoring = hide((x - x.nanmean(0)) / 20, 0)[1]
    rest = x.masked_fill(scoring, torch.nan)
    found = impute._scores(x, impute._ways(x, 1, False)["Factor analysis"], scoring, 0)
    W, loc, scale, _ = (value.numpy() for value in exact.em(rest, 1, iterations=1000, tolerance=1e-5))
    cov, unit, away, width = W @ W.T + np.diag(scale**2), np.nanstd(x.numpy(), 0), [], []
    for m, (n, j) in enumerate(scoring.nonzero().tolist()):
        o = ~rest[n].isnan().numpy()
        gain = np.linalg.solve(cov[np.ix_(o, o)], cov[o, j]) if o.any() else np.zeros(0)
        mean = loc[j] + gain @ (rest[n].numpy()[o] - loc[o])
        sd = np.sqrt(cov[j, j] - gain @ cov[o, j])
        away.append((found.center[m] * unit[j] + np.nanmean(x[:, j]) - mean) / sd * DRAWS**0.5)
        width.append((found.high - found.low)[m] * unit[j] / sd)
    assert len(away) > 30 and np.abs(away).max() < 5
    assert abs(np.mean(np.square(away)) - 1) < 5 * (2 / len(away)) ** 0.5
    assert abs(np.mean(width) - 2 * 1.645) < 5 * np.std(width) / len(width) ** 0.5


# --- what is refused ------------------------------------------------------------------------------


def bad_tables():
    x = numbers()
    written(x, "good.csv")
    good = pd.read_csv("good.csv")
    good.to_csv("semicolons.csv", index=False, sep=";")
    good.to_csv("tabs.csv", index=False, sep="\t")
    mixed = good.astype({"a": object})
    mixed.loc[[4, 9], "a"] = ["12,5", "1.2 kg"]
    mixed.to_csv("mixed.csv", index=False)
    good.assign(d=np.nan).to_csv("empty_column.csv", index=False)
    good.assign(d=3.0).to_csv("constant.csv", index=False)
    good.rename(columns={"d": "a"}).to_csv("twice.csv", index=False)
    good[:1].to_csv("one_row.csv", index=False)
    good[["id", "note"]].to_csv("words.csv", index=False)
    good[["id", "a"]].to_csv("one_number.csv", index=False)
    good.fillna({name: 1.0 for name in ["a", "b, c", "d", "e"]}).to_csv("complete.csv", index=False)
    good.assign(e=good["e"].where(good.index != 2, np.inf)).to_csv("infinite.csv", index=False)
    x[5] = np.nan
    written(x, "empty_row.csv")
    Path("open.csv").write_text('a,b\n1,"2\n3,4\n')
    Path("ragged.csv").write_text("a,b\n1,2\n3,4,5\n")
    typed(numbers()).assign(double=np.nan).to_parquet("empty.parquet")
    typed(numbers()).assign(double=np.inf).to_parquet("infinite.parquet")
    typed(numbers())[["name", "yes"]].to_parquet("words.parquet")
    large = pd.array([2**60 + 1, None, *range(N - 2)], dtype="Int64")
    typed(numbers()).assign(large=large).to_parquet("large.parquet")
    Path("false.parquet").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("semicolons.csv", "separated by ';'"),
        ("tabs.csv", "separated by '\\t'"),
        ("mixed.csv", "column 'a' is not numeric: '12,5' (line 7), '1.2 kg' (line 12)"),
        ("empty_column.csv", "'d' has no value"),
        ("constant.csv", "'d' is always 3"),
        ("twice.csv", "two columns are named a"),
        ("one_row.csv", "1 rows"),
        ("words.csv", "no numeric column; its columns are id, note"),
        ("one_number.csv", "one column of numbers"),
        ("complete.csv", "no cell of the table of numbers is missing"),
        ("infinite.csv", "'e' is infinite"),
        ("empty_row.csv", "no number is observed in 1 row of the table (line 8)"),
        ("open.csv", "opens on line 2"),
        ("ragged.csv", "line 3 of ragged.csv has 3 values"),
        ("empty.parquet", "'double' has no value"),
        ("infinite.parquet", "'double' is infinite in 60 cells, the first in row 1"),
        ("words.parquet", "no column of numbers: 'name'"),
        ("large.parquet", "'large' has holes and whole numbers beyond 2^53"),
        ("false.parquet", "false.parquet cannot be read"),
        ("none.parquet", "there is no file none.parquet"),
        ("good.csv -o mixed.csv", "mixed.csv exists"),
        ("good.csv --report mixed.csv", "mixed.csv exists"),
        ("good.csv --report good.csv --force", "the report is the input"),
        ("good.csv --report out.csv", "named twice"),
        ("good.csv --report ./out.csv --force", "named twice"),
        ("good.csv --draws 2 --report out.draws.csv", "named twice"),
        ("good.csv --draws 2 --json out.draws.csv", "named twice"),
        ("good.csv --report nowhere/r.html", "no folder nowhere"),
        ("good.csv --draws 99999999", "--draws 1118481"),
        ("good.csv --report r.html --json r.html", "same file"),
    ],
)
def test_a_table_that_is_refused_leaves_everything_as_it_was(ppvae_, words, says, tmp_path):
    bad_tables()
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = words.split()
    code, _, err = ppvae_("impute", *words, *([] if "-o" in words else ["-o", "out.csv"]))
    assert code == 2 and says in " ".join(err.split()), (code, err)
    assert "Likely cause" in err and "Try" in err and "Traceback" not in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write, /proc")
@pytest.mark.parametrize("words", [("-o", "/proc/out.csv"), ("-o", "out.csv", "--report", "/proc/r.html")])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(ppvae_, words, monkeypatch):
    written(numbers())
    monkeypatch.setattr(data, "read_table", lambda *_, **__: pytest.fail("the table was read first"))
    code, _, err = ppvae_("impute", "t.csv", *words)
    assert code == 2 and "/proc cannot be written" in " ".join(err.split())
    assert not Path("out.csv").exists()


def test_an_interrupt_leaves_no_half_file(ppvae_, monkeypatch, tmp_path):
    from ppvae.data import completed

    def cut(table, filled, draft):
        Path(draft).write_text("half of a ta")
        raise KeyboardInterrupt

    written(numbers())
    monkeypatch.setattr(completed, "_write_lines", cut)
    code, _, _ = ppvae_("impute", "t.csv", "-o", "full.csv")
    assert code == 130 and [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_long_work_says_what_it_does(capfd):
    with impute._doing("counting [sheep]", after=0.05):
        time.sleep(0.3)
    with impute._doing("blinking", after=0.2):
        pass
    time.sleep(0.4)
    out, err = capfd.readouterr()
    assert err == "counting [sheep] …\n" and out == ""
