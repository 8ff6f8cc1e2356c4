"""`ppvae impute` on tables of numbers and words: what is filled, with what, what is passed through, and what is refused."""

import csv
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from ppvae import data
from ppvae.cli import impute_mixed
from ppvae.evaluate.imputation import crps
from ppvae.imputation import complete, energy, mixed, ways, worth_trying
from ppvae.imputation.mixed import ALONE, MIXED_WAYS, Layout, MixedWay, complete_mixed
from ppvae.imputation.sheet import Sheet
from ppvae.report.hidden import hide

impute = importlib.import_module("ppvae.cli.impute")
N = 160
ASIDE = "town", "smokes", "visits", "grade", "income", "height", "below"
GAUSSIAN, FACTORS = "Gaussian of indicators", "Factor analysis"


@pytest.fixture
def quick(monkeypatch):
    """Only the ways that take no time, and few draws."""
    monkeypatch.setattr(impute, "draws_for", lambda _: 39)
    some = {name: MIXED_WAYS[name] for name in (ALONE, GAUSSIAN)}
    monkeypatch.setattr(impute_mixed, "ways_for", lambda *_: some)
    monkeypatch.setattr(impute, "worth_trying", lambda *_: {FACTORS: ways.WAYS[FACTORS]})


def frame(rows=N, missing=0.2, seed=0):
    """A table of one latent by every kind of column, and the same with holes."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    full = pd.DataFrame(
        {
            "id": [f"p{n:04d}" for n in range(rows)],
            "town": np.array(["Ås, south", "Oslo", 'the "bay"', "none"])[np.digitize(z, [-0.7, 0, 0.7])],
            "smokes": (z + 0.3 * rng.normal(size=rows) > 0).astype(int),
            "visits": rng.poisson(np.exp(0.8 + z)),
            "grade": np.digitize(z + 0.3 * rng.normal(size=rows), [-1, 0, 1]) + 1,
            "income": np.exp(9 + z + 0.2 * rng.normal(size=rows)),
            "height": 170 + 8 * z + 4 * rng.normal(size=rows),
            "day": pd.date_range("2024", periods=rows).astype(str),
        }
    )
    gaps = rng.random(full.shape) < missing
    gaps[:, [0, 7]] = False
    gaps[gaps[:, 1:7].all(1), 6] = False
    return full, full.astype(object).mask(gaps)


def written(holes, name="t.csv", marks=("", "NA", "?"), ending="\r\n"):
    """A CSV with quotes where they are not needed, and several markers of what is missing: its cells."""
    rows = [list(holes.columns)]
    for n, row in enumerate(holes.itertuples(index=False)):
        cells = []
        for name_, value in zip(holes.columns, row, strict=True):
            if value is None or value != value:
                cells.append(marks[n % len(marks)])
            elif "town" in name_:
                cells.append('"' + str(value).replace('"', '""') + '"')
            else:
                cells.append(str(value))
        rows.append(cells)
    Path(name).write_bytes(("\ufeff" + "".join(",".join(row) + ending for row in rows)).encode())
    return rows


def test_words_bits_and_whole_numbers_are_filled_as_they_are_written_and_all_else_stays_byte_for_byte(ppvae_, quick):
    full, holes = frame()
    rows = written(holes)
    before = Path("t.csv").read_bytes()
    code, out, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--draws", 3, "--json", "r.json")
    assert code == 0, err
    assert Path("t.csv").read_bytes() == before
    assert "2 columns that are neither numbers nor classes passed through: id, day" in out
    done = list(csv.reader(open("full.csv", newline="", encoding="utf-8-sig")))
    for n, j in np.argwhere(holes.isna().to_numpy()):
        word = done[n + 1][j]
        rows[n + 1][j] = '"' + word.replace('"', '""') + '"' if j == 1 else word
        if full.columns[j] in ("smokes", "visits", "grade"):
            assert re.fullmatch(r"\d+", word)
        elif j > 1:
            assert np.isfinite(float(word))
    assert Path("full.csv").read_bytes() == ("\ufeff" + "".join(",".join(row) + "\r\n" for row in rows)).encode()
    table = pd.read_csv("full.csv", keep_default_na=False)
    assert (
        set(table["town"]) == set(full["town"])
        and set(table["smokes"]) == {0, 1}
        and set(table["grade"]) == {1, 2, 3, 4}
    )
    drawn = pd.read_csv("full.draws.csv", keep_default_na=False)
    assert (drawn.drop(columns="draw").dtypes == table.dtypes).all() and len(drawn) == 3 * N
    gone = holes["town"].isna()
    assert (drawn["town"].to_numpy().reshape(3, N)[:, ~gone] == full["town"][~gone].to_numpy()).all()
    assert any(drawn["town"].to_numpy().reshape(3, N)[0, gone] != drawn["town"].to_numpy().reshape(3, N)[1, gone])
    found = json.load(open("r.json"))["results"]
    assert found["way"] == GAUSSIAN and found["passed"] == ["id", "day"]
    kinds = "categorical:4", "binary", "count", "ordinal:4", "positive", "real"
    assert found["kinds"] == dict(zip(full.columns[1:7], kinds, strict=True))
    assert found["missing"] == int(holes.isna().to_numpy().sum())
    right = np.mean(table["town"][gone] == full["town"][gone])
    assert right > np.mean(full["town"][gone] == holes["town"].mode()[0]) + 0.15


def test_what_the_page_says_of_words_are_the_figures_of_json(ppvae_, quick):
    _, holes = frame()
    hostile = {"Oslo": "<b>&", "none": "none"}
    written(holes.assign(town=holes["town"].replace(hostile)).rename(columns={"town": "<i>town"}))
    words = ("t.csv", "-o", "full.csv", "--report", "r.html", "--json", "r.json", "--force", "--seed", 4)
    code, out, err = ppvae_("impute", *words)
    assert code == 0, err
    page, found = Path("r.html").read_text(encoding="utf-8"), json.load(open("r.json"))["results"]
    plain = re.sub(r'"data:image/png;base64,[^"]*"', '""', page)
    assert len(re.findall("data:image/png", page)) == 1 + 6
    assert "<b>&" not in plain and "<i>town" not in plain and "= &lt;b&gt;&amp;" in plain and "&lt;i&gt;town" in plain
    said, classes = " ".join(plain.replace("\u00a0", " ").split()), found["classes"]
    assert f"Of {classes['entries']} hidden cells of classes {classes['right']}" in said
    assert f"of {classes['entries']} hidden cells of classes {classes['right']} are right" in out
    parts = found["by_column"].values()
    for figure in ("entries", "right", "right_common"):
        assert sum(part[figure] for part in parts if "right" in part) == classes[figure]
    assert sum(part["entries"] for part in parts) == classes["entries"] + found["score"]["entries"]
    for name, tried in found["tried"].items():
        assert f"{name}{' (chosen)' if name == found['way'] else ''}</td><td>{tried['energy']:.4g}</td>" in said
    assert found["tried"][ALONE]["energy"] == 1 and found["energy"] < 0.9

    def timeless(page):
        return re.sub(r"Written [\d: -]+|[\d.]+\s+seconds", "", page)

    assert ppvae_("impute", *words)[0] == 0
    assert timeless(Path("r.html").read_text(encoding="utf-8")) == timeless(page)


def typed(rows=N):
    full, holes = frame(rows)
    sizes = ["small", "medium", "large"]
    size = np.array(sizes)[np.digitize(full["height"], [166, 174])]
    made = pd.DataFrame(
        {
            "size": pd.Categorical(np.where(np.arange(rows) % 7 == 3, None, size), sizes, ordered=True),
            "town": holes["town"],
            "yes": pd.array(np.where(holes["smokes"].isna(), None, holes["smokes"] == 1), dtype="boolean"),
            "visits": pd.array(holes["visits"], dtype="Int32"),
            "height": holes["height"].astype(np.float32),
            "exact": np.arange(rows, dtype=np.int16),
            "day": pd.date_range("2024", periods=rows),
        },
        index=pd.Index(range(7, 7 + rows), name="key"),
    )
    return made


def test_parquet_keeps_the_types_of_words_bits_and_whole_numbers(ppvae_, quick):
    made = typed()
    made.to_parquet("t.parquet")
    before = Path("t.parquet").read_bytes()
    code, out, err = ppvae_("impute", "t.parquet", "-o", "full.parquet", "--draws", 2)
    assert code == 0, err
    assert (
        Path("t.parquet").read_bytes() == before
        and "1 column that is neither numbers nor classes passed through: day" in out
    )
    was, full = pq.read_table("t.parquet"), pq.read_table("full.parquet")
    assert was.schema.equals(full.schema)
    read, before = pd.read_parquet("full.parquet"), pd.read_parquet("t.parquet")
    assert (read.dtypes == before.dtypes).all() and read.index.equals(before.index)
    assert list(read["size"].cat.categories) == ["small", "medium", "large"] and read["size"].cat.ordered
    assert read.notna().all(axis=None)
    for name in made:
        seen = before[name].notna()
        assert (read[name][seen] == before[name][seen]).all()
    drawn = pq.read_table("full.draws.parquet")
    assert drawn["draw"].to_pylist() == [1] * N + [2] * N and drawn.drop(["draw"]).schema.names == was.schema.names
    assert drawn.schema.field("size").type == was.schema.field("size").type


def test_csv_and_parquet_give_the_same_cells_whichever_way(ppvae_, quick):
    _, holes = frame()
    holes = holes.drop(columns=["id", "day"])
    holes.to_csv("t.csv", index=False)
    holes.astype({"visits": "Int64", "grade": "Int64", "smokes": "Int64", "income": float, "height": float}).to_parquet(
        "t.pq"
    )
    for source in ("t.csv", "t.pq"):
        for goal in ("csv", "pq"):
            code, _, err = ppvae_("impute", source, "-o", f"{source[2:]}.{goal}")
            assert code == 0, err
    options = {"keep_default_na": False, "float_precision": "round_trip"}
    tables = [pd.read_csv("csv.csv", **options), pd.read_csv("pq.csv", **options)] + [
        pd.read_parquet(f"{source}.pq") for source in ("csv", "pq")
    ]
    for table in tables[1:]:
        for name in table:
            assert list(table[name]) == list(tables[0][name]), name
        assert all(pd.api.types.is_integer_dtype(table[name]) for name in ("visits", "grade", "smokes"))


def test_the_story_completes_every_kind_and_equal_seeds_give_equal_tables(monkeypatch, tmp_path):
    monkeypatch.setattr(mixed, "STEPS", 6)
    written(frame()[1], tmp_path / "t.csv")
    sheet = Sheet.of(data.read_table(tmp_path / "t.csv", text="words"))
    x = torch.as_tensor(sheet.table.values)
    one, same = (complete_mixed(x, sheet.layout, MIXED_WAYS["Mixed story"], 19, 0) for _ in range(2))
    assert torch.equal(one.draws, same.draws)
    assert torch.equal(one.draws[:, ~x.isnan()], x[~x.isnan()].expand(19, -1))
    low, high = torch.where(x.isnan(), torch.inf, x).amin(0), torch.where(x.isnan(), -torch.inf, x).amax(0)
    assert ((one.draws >= low) & (one.draws <= high)).all()
    assert (one.draws[..., :4] % 1 == 0).all() and (one.mean[:, :4] % 1 == 0).all()


def test_which_ways_are_worth_trying():
    layout = Layout(("categorical:40", "real"), (False, False))
    assert list(impute_mixed.ways_for(layout, 1000, False)) == [ALONE, GAUSSIAN, "Mixed story"]
    assert list(impute_mixed.ways_for(layout, 1000, True)) == [ALONE, GAUSSIAN, "Mixed story", "Mixed story, long"]
    few = list(impute_mixed.ways_for(layout, 10_000, False))
    assert few == [ALONE, "Factor analysis of indicators", "Mixed story"]


# --- what is a class ------------------------------------------------------------------------------


def test_a_table_of_real_numbers_is_completed_as_before_and_whole_ones_are_rounded(ppvae_):
    rng = np.random.default_rng(0)
    x = 100 + 20 * (rng.normal(size=(150, 1)) * [1.0, -1.0, 0.5] + 0.3 * rng.normal(size=(150, 3)))
    for whole in (False, True):
        table = pd.DataFrame(x.round() if whole else x, columns=list("abc"))
        holes = table.mask(rng.random(x.shape) < 0.2)
        holes[holes.isna().all(axis=1)] = 100
        text = holes.astype("Int64") if whole else holes
        text.to_csv("t.csv", index=False)
        sheet = Sheet.of(data.read_table("t.csv", text="words"))
        assert not sheet.mixed and any(sheet.layout.whole) == whole
        code, _, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--json", "r.json", "--draws", 2, "--force")
        assert code == 0, err
        found = json.load(open("r.json"))["results"]
        assert tuple(found["tried"]) == tuple(worth_trying(torch.as_tensor(holes.to_numpy())))
        by_hand = complete(torch.as_tensor(holes.to_numpy()), ways.WAYS[found["way"]], 199, 0)
        full = pd.read_csv("full.csv", float_precision="round_trip")
        drawn = pd.read_csv("full.draws.csv", float_precision="round_trip").drop(columns="draw")
        if whole:
            assert all(full.dtypes == np.int64) and "." not in Path("full.csv").read_text()
            assert all(drawn.dtypes == np.int64)
        for ours, theirs in ((full, by_hand.mean), (drawn, by_hand.draws[:2].reshape(-1, 3))):
            expected = theirs.numpy()
            assert np.array_equal(ours.to_numpy(), expected.round() if whole else expected)


def test_few_rows_and_factors_leave_words_as_they_were_unless_a_kind_is_said(ppvae_, quick):
    _, holes = frame(rows=60)
    written(holes)
    code, out, err = ppvae_("impute", "t.csv", "-o", "full.csv")
    assert code == 0, err
    assert "3 columns that are not numbers passed through: id, town, day" in out
    code, out, err = ppvae_("impute", "t.csv", "-o", "said.csv", "--kind", "town=categorical", "--kind", "visits=count")
    assert code == 0, err
    said = pd.read_csv("said.csv", keep_default_na=False)
    assert set(said["town"]) == set(holes["town"].dropna()) and said["visits"].dtype == np.int64
    assert said["grade"].dtype == float  # as today
    _, holes = frame()
    written(holes)
    code, out, err = ppvae_("impute", "t.csv", "-o", "factors.csv", "--latents", 1)
    assert code == 0 and "3 columns that are not numbers passed through: id, town, day" in out, err


def test_kinds_can_be_said(ppvae_, quick):
    _, holes = frame()
    written(
        holes.assign(
            size=np.where(holes["grade"].isna(), None, np.where(holes["grade"].to_numpy() == 1, "low", "high"))
        )
    )
    words = ("--kind", "town=aside", "--kind", "size=low<high", "--kind", "grade=categorical", "--kind", "visits=real")
    code, out, err = ppvae_("impute", "t.csv", "-o", "full.csv", *words, "--json", "r.json")
    assert code == 0, err
    found = json.load(open("r.json"))["results"]
    empty = holes["town"].isna() & (
        np.arange(N) % 3 == 0
    )  # the other markers stay as they stand, where nothing is filled
    assert found["passed"] == ["id", "town", "day"] and found["passed_missing"] == int(empty.sum())
    said = {"size": "ordinal:2", "grade": "categorical:4", "visits": "real"}
    assert found["kinds"] | said == found["kinds"]
    table = pd.read_csv("full.csv", keep_default_na=False)
    assert set(table["size"]) == {"low", "high"} and table["grade"].dtype == np.int64


def test_a_table_of_words_alone_is_completed(ppvae_, quick):
    full, holes = frame(400)
    words = pd.DataFrame(
        {
            name: np.where(holes[name].isna(), None, "w" + holes[name].astype(str))
            for name in ("town", "smokes", "grade")
        }
    )
    words[words.isna().all(axis=1)] = "w1"
    words = words.mask(~words.isin([f"w{v}" for v in [*full["town"].unique(), 0, 1, 2, 3, 4]]))
    words.to_csv("t.csv", index=False)
    code, out, err = ppvae_("impute", "t.csv", "-o", "full.csv", "--report", "r.html")
    assert code == 0, err
    table = pd.read_csv("full.csv")
    assert table.notna().all(axis=None)
    gone = holes["grade"].isna() & words["town"].notna()
    right = (table["grade"] == "w" + full["grade"].astype(str))[gone].mean()
    assert right > (words["grade"].mode()[0] == "w" + full["grade"].astype(str))[gone].mean() + 0.1


# --- scores and ways ------------------------------------------------------------------------------


def test_the_energy_of_classes_is_half_of_briers_score_and_of_bits_the_crps():
    """The mean over 4,000 sets of 9 draws is that of their law, within 5 standard errors."""
    p = torch.tensor([0.5, 0.2, 0.3])
    draws = torch.multinomial(p.expand(4000, 3), 9, replacement=True).T.double()
    for truth in range(3):
        found = energy.energy(draws, torch.full((4000,), float(truth)), "categorical:3")
        brier = (p - torch.eye(3)[truth]).square().sum() / 2
        assert abs(found.mean() - brier) < 5 * found.std() / 4000**0.5
    bits, truth = (draws > 0).double(), (torch.rand(4000) < 0.5).double()
    for kind in ("binary", "ordinal:2"):
        torch.testing.assert_close(energy.energy(bits, truth, kind), crps(bits, truth))
    torch.testing.assert_close(energy.energy(bits, truth, "categorical:2"), crps(bits, truth))


def test_the_energy_is_relative_to_the_columns_alone():
    def cells(energies):
        some = torch.zeros(4)
        return energy.Hidden(torch.tensor([0, 0, 1, 1]), some, some[None], some, torch.tensor(energies))

    assert abs(cells([1.0, 0.0, 30.0, 10.0]).relative(cells([2.0, 2.0, 100.0, 0.0])) - (0.25 + 0.4) / 2) < 1e-12
    assert cells([1.0, 2.0, 3.0, 4.0]).relative(cells([1.0, 2.0, 3.0, 4.0])) == 1


def test_no_fit_that_chooses_or_scores_sees_what_it_is_scored_by(monkeypatch, ppvae_):
    written(frame()[1])
    seen = []

    def spy(x, layout, draws, seed):
        seen.append(x)
        return mixed.columns_alone(x, layout, draws, seed)

    monkeypatch.setitem(MIXED_WAYS, "spy", MixedWay(spy, ""))
    monkeypatch.setattr(impute_mixed, "ways_for", lambda *_: {"spy": MIXED_WAYS["spy"]})
    torch.set_default_dtype(torch.float64)
    sheet = Sheet.of(data.read_table("t.csv", text="words"))
    x = torch.as_tensor(sheet.table.values)
    choosing, scoring = hide((x - x.nanmean(0)) / x.nan_to_num().std(0), 0)
    done = impute_mixed.impute_mixed(sheet, x, (choosing, scoring), (19, 19), False, 0, impute._doing)
    chose, scored, last = seen
    assert chose[choosing | scoring].isnan().all() and not chose[~x.isnan() & ~choosing & ~scoring].isnan().any()
    assert scored[scoring].isnan().all() and not scored[~x.isnan() & ~scoring].isnan().any()
    assert torch.equal(last.nan_to_num(-9.0), x.nan_to_num(-9.0)) and choosing.any() and scoring.any()
    for j in (0, 1):
        left, cells = x[~scoring[:, j] & ~x[:, j].isnan(), j].long(), x[scoring[:, j], j]
        common = int((cells == left.bincount().argmax()).sum())
        assert done.results["by_column"][sheet.table.columns[j]]["right_common"] == common > 0


def test_columns_alone_draw_what_was_observed_and_the_centre_is_mean_median_or_mode():
    x = torch.tensor([[0.0, 1.0, 2.5], [2.0, 1.0, 3.5], [2.0, 0.0, torch.nan], [torch.nan, torch.nan, 9.0]])
    layout = Layout(("categorical:3", "binary", "real"), (False, False, False))
    found = complete_mixed(x, layout, MIXED_WAYS[ALONE], 4000, 0)
    assert torch.equal(found.draws[:, ~x.isnan()], x[~x.isnan()].expand(4000, -1))
    for (n, j), values in {(3, 0): [0.0, 2.0], (3, 1): [0.0, 1.0], (2, 2): [2.5, 3.5, 9.0]}.items():
        drawn = found.draws[:, n, j]
        assert sorted(set(drawn.tolist())) == values
    assert abs((found.draws[:, 3, 0] == 2).double().mean() - 2 / 3) < 5 * (2 / 9 / 4000) ** 0.5
    assert found.mean[3, :2].tolist() == [2.0, 1.0] and abs(found.mean[2, 2] - found.draws[:, 2, 2].mean()) < 1e-12
    drawn = torch.tensor([0.0, 0.0, 1.0, 3.0, 3.0])[:, None]
    assert [mixed._centre(drawn, kind, False).item() for kind in ("ordinal:4", "categorical:4", "real")] == [
        1.0,
        0.0,
        1.4,
    ]
    assert mixed._centre(drawn, "count", True).item() == 1.0


def test_indicators_are_read_back_as_often_as_their_means_say():
    """199 draws of 3,000 cells: bits exactly by rank; classes of three within 0.03."""
    p = torch.rand(3000, 1)
    drawn = p + (p * (1 - p)).sqrt() * torch.randn(199, 3000, 1)
    bits = mixed._folded("binary", drawn, torch.zeros(1))
    assert ((bits.mean(0) - drawn.mean(0)[:, 0].clamp(0, 1)).abs() <= 1 / 199).all()
    assert ((bits * 2 - 1) * (drawn[..., 0] - drawn[..., 0].median(0).values)).mean() > 0  # large draws are ones
    q = torch.tensor([0.6, 0.3, 0.1])
    drawn = (
        q + torch.randn(199, 3000, 3) @ torch.linalg.cholesky(torch.diag(q) - torch.outer(q, q) + 1e-9 * torch.eye(3)).T
    )
    codes = mixed._folded("categorical:3", drawn, torch.zeros(1000))
    assert ((codes[..., None] == torch.arange(3)).double().mean((0, 1)) - q).abs().max() < 0.06


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kind", "town"), "--kind is 'town'"),
        (("--kind", "twon=aside"), "--kind names the column 'twon'"),
        (("--kind", "town=wordy"), "column 'town' is asked to be 'wordy'"),
        (("--kind", "town=ordinal"), "'town' holds words"),
        (("--kind", "town=binary"), "'town' has 4 different values"),
        (
            ("--kind", "town=real"),
            "column 'town' holds what is no number: 118 cells, the first three: 'Oslo' (line 3)",
        ),
        (("--kind", "town=Oslo<none"), "column 'town' holds what is none of the 2 classes of its column"),
        (("--kind", "height=count"), "column 'height' holds what is no count"),
        (("--kind", "below=positive"), "column 'below' holds what is not positive"),
        (("--kind", "below=count"), "column 'below' holds what is no count"),
        (("--kind", "town=aside", "--latents", "1"), "both --kind and --latents"),
        (sum((("--kind", f"{c}=aside") for c in ASIDE), ()), "can be modelled"),
        (("--kind", "town=aside", "--kind", "height=aside", "complete"), "no cell of the table"),
    ],
)
def test_a_kind_that_does_not_fit_ends_with_a_message_and_leaves_everything_as_it_was(ppvae_, words, says, tmp_path):
    _, holes = frame()
    if words[-1] == "complete":
        words, holes = words[:-1], frame(missing=0)[1]
    written(holes.assign(below=-1.5 + np.arange(N)))
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, err = ppvae_("impute", "t.csv", "-o", "out.csv", *words)
    assert code == 2 and says in " ".join(err.split()), (code, err)
    assert "Likely cause" in err and "Try" in err and "Traceback" not in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: t.assign(income=t["income"].mask(t.index == 7, "1.2 kg")),
            "column 'income' is not numeric: '1.2 kg' (line 9)",
        ),
        (lambda t: t.assign(height=t["height"].mask(t.index == 7, np.inf)), "'height' is infinite"),
        (lambda t: t.assign(height=3.5), "'height' is always 3.5"),
        (lambda t: t.assign(height=np.nan), "'height' has no value"),
        (
            lambda t: t.mask((t.index == 7)[:, None] & ~t.columns.isin(["id", "day"])),
            "is observed in 1 row of the table (line 9)",
        ),
        (lambda t: t[["id", "town"]], "one column"),
        (lambda t: t[["id", "day"]], "no numeric column; its columns are id, day"),
    ],
)
def test_a_bad_cell_ends_with_a_message_and_leaves_everything_as_it_was(ppvae_, change, says, tmp_path):
    written(change(frame()[1]))
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, err = ppvae_("impute", "t.csv", "-o", "out.csv")
    assert code == 2 and says in " ".join(err.split()), (code, err)
    assert "Traceback" not in err and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


# --- a real table ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_classes_and_numbers_are_completed_better_than_by_mode_and_median(data_folder, ppvae_):
    """1,000 rows of both wines with their colour, and of default credit, a fifth of the cells hidden."""
    with np.load(data_folder / "uci.npz", allow_pickle=False) as tables:
        found = {name: (tables[name], tables[f"{name}__types"]) for name in ("hivae_wine", "hivae_defaultcredit")}
    for name, (x, types) in found.items():
        rng = np.random.default_rng(0)
        x = x[np.sort(rng.permutation(len(x))[:1000])]
        words = [str(kind).startswith("cat") for kind in types]
        full = pd.DataFrame(
            {f"c{j}": [f"w{v:g}" for v in x[:, j]] if word else x[:, j] for j, word in enumerate(words)}
        )
        gone = rng.random(full.shape) < 0.2
        full.mask(gone).to_csv(f"{name}.csv", index=False)
        code, _, err = ppvae_("impute", f"{name}.csv", "-o", f"{name}.full.csv")
        assert code == 0, err
        done = pd.read_csv(f"{name}.full.csv")
        wrong, away = [], []
        for j, column in enumerate(full):
            truth, ours, seen = full[column][gone[:, j]], done[column][gone[:, j]], full[column][~gone[:, j]]
            if words[j]:
                wrong.append(((ours != truth).mean(), (truth != seen.mode()[0]).mean()))
            else:
                errors = ((value - truth).pow(2).mean() ** 0.5 / seen.std() for value in (ours, seen.median()))
                away.append(tuple(errors))
        assert np.mean(wrong, 0)[0] < 0.95 * np.mean(wrong, 0)[1], name
        assert np.mean(away, 0)[0] < 0.85 * np.mean(away, 0)[1], name
