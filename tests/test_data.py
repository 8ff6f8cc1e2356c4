"""Data sets, missingness laws and tables: their promises, and every input they refuse."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas
import pooch
import pytest
import torch

from ppvae import Problem, data
from ppvae.data import formats, sources, uci
from ppvae.data import mnist as mnist_module

FOLDER = Path(os.environ.get("PPVAE_DATA") or "unset")
BINARY = {"digits_binary", "mnist", "mnist_static"}
LAWS = {"mcar": data.mcar, "mar": data.mar, "mnar": data.mnar}


def needs(*files):
    absent = [file for file in files if not (FOLDER / file).is_file()]
    return pytest.mark.skipif(bool(absent), reason=f"PPVAE_DATA={FOLDER} has no {', '.join(absent)}")


def real(name):
    """The set `name`, or a skip that says what is absent."""
    file = {"frey": "frey.npz", "mnist_static": "binarized_mnist.npz"}.get(name)
    file = file or ("mnist/train-images-idx3-ubyte.gz" if name.startswith("mnist") else None)
    if file and not (FOLDER / file).is_file():
        pytest.skip(f"PPVAE_DATA={FOLDER} has no {file}")
    return data.load(name)


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(autouse=True)
def global_chance_untouched():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.fixture
def table():
    chance = np.random.default_rng(0)
    return torch.tensor(chance.normal(size=(4000, 10)) @ chance.normal(size=(10, 10)) + 3.0)


# --- data sets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", data.names())
def test_each_set_keeps_its_contract(name):
    d = real(name)
    assert d.name == name and d.x.dtype == torch.float32 and d.x.shape[1] == d.features
    assert d.features == torch.Size(d.shape).numel() and torch.isfinite(d.x).all()
    rows = torch.cat(list(d.split.values()))
    assert torch.equal(rows.sort().values, torch.arange(len(d.x)))  # each row in exactly one part
    assert (d.likelihood == "bernoulli") == (name in BINARY)
    assert (d.redraw is not None) == ("redrawn" in d.scaling)
    assert name in repr(d) and d.scaling in repr(d)
    seen = d.observed("test", seed=3)
    assert torch.equal(seen, d.observed("test", seed=3))
    if name in BINARY:
        assert ((seen == 0) | (seen == 1)).all()
    if d.redraw is None:
        assert torch.equal(seen, d.rows("test"))
    else:
        assert not torch.equal(seen, d.observed("test", seed=4))
        assert not torch.equal(d.redraw(d.rows("test"), torch.Generator().manual_seed(1)), seen)


@pytest.mark.parametrize("name", ["digits", "digits_binary", "frey"])
def test_loading_twice_gives_the_same_bits(name):
    first, second = real(name), real(name)
    assert torch.equal(first.x, second.x)
    assert all(torch.equal(first.split[part], second.split[part]) for part in first.split)


def test_digits_are_the_levels_of_scikit_learn():
    from sklearn.datasets import load_digits

    raw = torch.tensor(load_digits().data, dtype=torch.float32)
    d, b = data.load("digits"), data.load("digits_binary")
    assert torch.equal((d.x.double() * 17 + 1e-6).floor().float(), raw)
    assert torch.equal(b.x * 16, raw) and raw.sum() == 561718
    assert d.x.std(0).min() > 0.01  # no column is constant
    assert d.label.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.equal(d.labels("test"), d.label[d.split["test"]])
    u = d.x.double() * 17 - raw
    assert abs(u.mean() - 0.5) < 5 / (12 * u.numel()) ** 0.5 and u.min() >= 0 and u.max() <= 1


def test_dynamic_binarization_has_the_grey_value_as_its_mean():
    d, draws = data.load("digits_binary"), 2000
    p = d.rows("test")[:20].double()
    chance = torch.Generator().manual_seed(0)
    mean = sum(d.redraw(p, chance) for _ in range(draws)) / draws
    sigma = (p * (1 - p) / draws).sqrt()
    assert ((mean - p).abs() <= 5 * sigma).all()  # where p is 0 or 1: exactly


@needs("mnist/train-images-idx3-ubyte.gz")
def test_mnist_is_the_official_one_in_both_forms():
    d, grey = data.load("mnist"), data.load("mnist_grey")
    levels = (d.x * 255).round().to(torch.uint8)
    assert {part: len(rows) for part, rows in d.split.items()} == {"train": 60_000, "test": 10_000}
    assert d.labels("train")[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert d.labels("test")[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert abs(d.rows("train").double().mean() - 0.1306604762738429) < 1e-8  # the published mean
    assert torch.equal((grey.x * 256).floor().to(torch.uint8), levels)  # noise never leaves its level
    assert grey.x.max() < 1 and torch.equal(grey.label, d.label)


@needs("binarized_mnist.npz")
def test_static_mnist_is_the_published_text_byte_for_byte():
    d = data.load("mnist_static")
    published = {  # sha256 of binarized_mnist_{part}.amat
        "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
        "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
        "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    }
    assert {part: len(d.rows(part)) for part in d.split} == {"train": 50_000, "valid": 10_000, "test": 10_000}
    for part, expected in published.items():
        assert hashlib.sha256(amat(d.rows(part).numpy())).hexdigest() == expected
    assert d.x.sum() == 5118041 + 1028036 + 1038896


@needs("frey.npz")
def test_frey_keeps_every_level():
    d = data.load("frey")
    levels = ((d.x.double() + 1) * 127.5).round().to(torch.uint8)
    assert sha256(levels.numpy()) == "2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78"
    assert {part: len(rows) for part, rows in d.split.items()} == {"train": 1572, "test": 393}
    assert abs(levels[:1400].double().mean() / 255 - 0.6049) < 5e-5  # as published for the first 1400 frames


def test_split_is_a_seeded_partition():
    parts = data.split(1965)
    assert len(parts["train"]) == 1572 and len(parts["test"]) == 393
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(1965))
    assert torch.equal(parts["test"], data.split(1965)["test"])
    assert not torch.equal(parts["test"], data.split(1965, seed=1)["test"])


@pytest.mark.parametrize(
    "n, options",
    [(1, {}), (-5, {}), (2.5, {}), ("9", {}), (9, {"fraction": 0}), (9, {"fraction": 1.0})]
    + [(9, {"fraction": float("nan")}), (9, {"fraction": "half"}), (9, {"seed": 0.5}), (9, {"seed": 2**70})],
)
def test_split_refuses(n, options):
    with pytest.raises(Problem):
        data.split(n, **options)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(Problem, match="mnist_static") as problem:
        data.load("mnits")
    assert "'mnist'" in str(problem.value) and "frey" in str(problem.value)
    for name in ("zzz", "", 7, None):
        with pytest.raises(Problem, match="digits_binary"):
            data.load(name)
    with pytest.raises(Problem, match="train or test"):
        data.load("digits").rows("valid")


def test_labels_of_an_unlabelled_set_are_refused():
    from dataclasses import replace

    with pytest.raises(Problem, match="no labels"):
        replace(data.load("digits"), label=None).labels("train")


# --- where the files come from --------------------------------------------------------------------


def amat(bits):
    text = np.full((len(bits), 2 * bits.shape[1]), ord(" "), np.uint8)
    text[:, ::2] = bits + ord("0")
    text[:, -1] = ord("\n")
    return text.tobytes()


@pytest.fixture
def small(tmp_path):
    """A source of five bytes that lies in the folder tmp_path / "here"."""
    content = bytes([3, 1, 4, 1, 5])
    here = tmp_path / "here"
    here.mkdir()
    (here / "small.gz").write_bytes(gzip.compress(content))
    urls = ("https://one.invalid/small.gz", "https://two.invalid/small.gz")
    return sources.Source(hashlib.sha256(content).hexdigest(), ("small.gz", "other.gz"), urls), here


@pytest.fixture
def home(monkeypatch, tmp_path):
    """Answers to downloads, by url: bytes, or an exception."""
    answers, asked = {}, []
    monkeypatch.delenv("PPVAE_DATA", raising=False)

    def retrieve(url, known_hash, fname, path):
        asked.append(url)
        if isinstance(answers.get(url), bytes):
            copy = tmp_path / fname
            copy.write_bytes(answers[url])
            return str(copy)
        raise answers.get(url, ConnectionError("no route"))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return answers, asked


def test_the_argument_comes_before_the_environment_and_both_before_the_network(small, home, monkeypatch):
    source, here = small
    assert sources.fetch(source, here).tolist() == [3, 1, 4, 1, 5]
    monkeypatch.setenv("PPVAE_DATA", str(here))
    assert sources.fetch(source).tolist() == [3, 1, 4, 1, 5]
    (here / "small.gz").rename(here / "other.gz")  # the second accepted name
    assert sources.fetch(source).tolist() == [3, 1, 4, 1, 5]
    with pytest.raises(Problem, match="no folder|not a folder"):
        sources.fetch(source, here / "absent")
    (here / "other.gz").unlink()
    with pytest.raises(Problem, match="small.gz or other.gz"):
        sources.fetch(source)
    assert home[1] == []


def test_other_compressions_of_the_same_bytes_are_the_same_file(small):
    source, here = small
    (here / "small.gz").write_bytes(gzip.compress(bytes([3, 1, 4, 1, 5]), compresslevel=1, mtime=99))
    assert sources.fetch(source, here).tolist() == [3, 1, 4, 1, 5]


@pytest.mark.parametrize("content", [b"", b"plain text", gzip.compress(b"31415926" * 99, mtime=0)[:-12]])
def test_a_damaged_file_is_named(small, content):
    source, here = small
    (here / "small.gz").write_bytes(content)
    with pytest.raises(Problem, match="small.gz"):
        sources.fetch(source, here)


def test_a_file_with_other_bytes_is_named_with_both_hashes(small):
    source, here = small
    (here / "small.gz").write_bytes(gzip.compress(b"27182"))
    with pytest.raises(Problem, match="small.gz") as problem:
        sources.fetch(source, here)
    assert source.sha256 in str(problem.value) and hashlib.sha256(b"27182").hexdigest() in str(problem.value)
    assert (here / "small.gz").exists()  # the user's own file is never deleted


def test_a_download_is_checked_and_the_next_home_is_tried(small, home, tmp_path):
    source, (answers, asked) = small[0], home
    answers[source.urls[0]] = b"<html>moved</html>"
    answers[source.urls[1]] = gzip.compress(bytes([3, 1, 4, 1, 5]))
    assert sources.fetch(source).tolist() == [3, 1, 4, 1, 5] and asked == list(source.urls)


def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(small, home, tmp_path):
    source, (answers, _) = small[0], home
    answers[source.urls[0]] = gzip.compress(b"27182")
    with pytest.raises(Problem, match="PPVAE_DATA") as problem:
        sources.fetch(source)
    text = str(problem.value)
    assert all(url in text for url in source.urls) and "no route" in text and source.sha256 in text
    assert not (tmp_path / "small.gz").exists()  # the bad copy would else be met again


def test_without_network_every_set_with_files_ends_in_a_problem(home):
    for name in ("mnist", "mnist_static", "mnist_grey", "frey", "concrete", "letter"):
        with pytest.raises(Problem, match="put the files in a folder"):
            data.load(name)


@needs("uci.npz")
def test_the_public_tables_are_those_in_the_folder_under_two_files_of_one_name(home):
    """As their public homes write them: commas or semicolons, with or without names and further columns."""
    answers, _ = home
    with np.load(FOLDER / "uci.npz", allow_pickle=False) as held:
        for name, table in uci.TABLES.items():
            lines = [",".join(map(repr, row)) for row in held[name].tolist()]
            if name == "wine_red":
                lines = ['"fixed acidity";"and so on"', *(line.replace(",", ";") for line in lines)]
            answers[table.urls[-1]] = "\n".join(lines).encode()
    for name in uci.TABLES:
        assert torch.equal(uci.numbers(name), uci.numbers(name, FOLDER))
    x = uci.numbers("hivae_defaultcredit")
    assert x.shape == (30_000, 14) and x[0, :4].tolist() == [20_000, 24, 3913, 3102]


def test_standardised_tables_are_the_numbers_in_standard_deviations():
    x, z = uci.numbers("breast"), data.load("breast").x
    assert torch.allclose(z.double(), (x - x.mean(0)) / x.std(0, correction=0), atol=1e-5)


@needs("frey.npz", "binarized_mnist.npz")
def test_the_public_formats_hold_what_the_folder_holds(home, tmp_path):
    from scipy.io import savemat

    answers, _ = home
    frey, static = data.load("frey", folder=FOLDER), data.load("mnist_static", folder=FOLDER)
    faces = np.load(FOLDER / "frey.npz", allow_pickle=False)["x"]
    savemat(tmp_path / "saved.mat", {"ff": faces.reshape(len(faces), -1).T})
    answers["https://cs.nyu.edu/~roweis/data/frey_rawface.mat"] = (tmp_path / "saved.mat").read_bytes()
    for part in static.split:
        url = f"{mnist_module.LAROCHELLE}binarized_mnist_{part}.amat"
        answers[url] = amat(static.rows(part).numpy())
    assert torch.equal(data.load("frey").x, frey.x)
    assert torch.equal(data.load("mnist_static").x, static.x)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    source = sources.Source("0", ("bad.npz",), ("https://one.invalid/bad.npz",))
    with pytest.raises(Problem, match="allow_pickle"):
        sources.fetch(source, tmp_path)


def test_idx_reads_sizes_from_the_header():
    header = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1]
    assert formats.idx(np.array([*header, *range(6)], np.uint8)).tolist() == [
        [[0], [1], [2]],
        [[3], [4], [5]],
    ]


# --- missingness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.65])
@pytest.mark.parametrize("law", LAWS)
def test_rates_are_met(table, law, rate):
    mask = LAWS[law](table, rate, seed=2)
    sigma = (rate * (1 - rate) / table.numel()) ** 0.5  # an upper bound under every law
    assert mask.dtype == torch.bool and mask.shape == table.shape
    assert abs((~mask).double().mean() - rate) <= 5 * sigma


@pytest.mark.parametrize("law", LAWS)
def test_masks_come_from_the_seed_alone(table, law):
    mask = LAWS[law](table, seed=5)
    torch.rand(1, generator=torch.Generator())
    assert torch.equal(mask, LAWS[law](table, seed=5))
    assert torch.equal(mask, LAWS[law](table.numpy(), seed=5))
    assert not torch.equal(mask, LAWS[law](table, seed=6))


def test_mcar_ignores_the_values(table):
    assert torch.equal(data.mcar(table), data.mcar(torch.zeros_like(table)))


def test_mar_depends_on_the_observed_columns_and_on_nothing_else(table):
    mask = data.mar(table, 0.5)
    always = mask.all(0)
    assert always.sum() == 3
    other = table.clone()
    other[:, ~always] = torch.linspace(-99, 7, other[:, ~always].numel(), dtype=other.dtype).reshape(4000, -1)
    assert torch.equal(data.mar(other, 0.5), mask)
    # It does depend on them: holes are more than independent draws would tie to the best observed column.
    seen = table[:, always] - table[:, always].mean(0)
    hole = (~mask[:, ~always]).double()
    tie = (seen / seen.std(0)).T @ (hole - hole.mean(0)) / hole.std(0) / len(hole)
    assert tie.abs().amax(0).max() > 10 / len(hole) ** 0.5
    # Each column has the rate, not only the table.
    rate = 0.5 * 10 / 7
    assert ((hole.mean(0) - rate).abs() <= 5 * (rate * (1 - rate) / len(hole)) ** 0.5).all()


def test_mnar_hides_larger_values(table):
    hole = (~data.mnar(table, 0.3)).double()
    centred = table - table.mean(0)
    assert ((centred * hole).mean(0) > 5 * centred.std(0) / len(hole) ** 0.5).all()
    # The law itself: in equal slices of the standardised value, holes are as frequent as the logistic says.
    z = (centred / centred.square().mean(0).sqrt()).flatten()
    odds = [hole.flatten()[(z > a) & (z < a + 0.2)].mean().logit() for a in (-1.1, 0.9)]
    assert abs(float(odds[1] - odds[0]) - 2.0) < 0.4  # slope 1 between z = -1 and z = 1


def test_constant_columns_are_no_trouble():
    x = torch.full((1000, 4), 0.3, dtype=torch.float64)  # its mean is rounded to below 0.3
    assert x.mean(0)[0] < 0.3
    x[:, 3] = torch.linspace(0, 1, 1000)
    assert abs((~data.mnar(x, 0.3)).double().mean() - 0.3) < 5 * (0.21 / 4000) ** 0.5
    assert data.self_masked(x).all()  # nothing lies above its mean
    with pytest.raises(Problem, match="constant"):
        data.mar(x[:, :3], 0.3)


def test_self_masking_is_the_protocol_of_not_miwae(table):
    mask, mean = data.self_masked(table), table.mean(0)
    for n in range(0, 4000, 371):
        for j in range(10):
            assert mask[n, j] == (j >= 5 or table[n, j] <= mean[j])
    assert 0.2 < (~mask).double().mean() < 0.3


@pytest.mark.parametrize("shape", [(1, 8, 4), (3, 2, 6)])
def test_quarters_hide_exactly_one_block(shape):
    C, H, W = shape
    mask = data.quarters(torch.zeros(4000, C * H * W), shape).reshape(4000, C, H, W)
    assert ((~mask).flatten(1).sum(1) == C * H * W // 4).all()
    corners = ~mask[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]  # (N, C, 4)
    assert (corners.sum(-1) == 1).all() and (corners == corners[:, :1]).all()  # the same in every channel
    blocks = ~mask.reshape(4000, C, 2, H // 2, 2, W // 2)
    assert (blocks.all(-1).all(-2) == blocks.any(-1).any(-2)).all()  # blocks are whole
    counts = corners[:, 0].sum(0)
    assert ((counts - 1000).abs() <= 5 * (4000 * 3 / 16) ** 0.5).all()
    assert not torch.equal(mask.flatten(1), data.quarters(torch.zeros(4000, C * H * W), shape, seed=1))


@pytest.mark.parametrize("law", LAWS.values())
@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), "half", None, True])
def test_bad_rates_are_refused(table, law, rate):
    with pytest.raises(Problem, match="rate"):
        law(table, rate)


@pytest.mark.parametrize("law", [*LAWS.values(), data.self_masked, lambda x: data.quarters(x, (1, 2, 2))])
@pytest.mark.parametrize(
    "x",
    [torch.tensor([[1.0, float("nan"), 0.0, 0.0]] * 2), torch.tensor([[1.0, float("inf"), 0.0, 0.0]] * 2)]
    + [torch.zeros(4), torch.zeros(2, 2, 2), torch.zeros(0, 4), np.array([["a", "b"]]), None],
    ids=["nan", "inf", "1d", "3d", "empty", "text", "none"],
)
def test_bad_tables_are_refused(law, x):
    with pytest.raises(Problem):
        law(x)


def test_other_bad_inputs_are_refused(table):
    with pytest.raises(Problem, match="limit is 0.70"):
        data.mar(table, 0.75)
    for law in (data.mcar, data.mar, data.mnar):
        with pytest.raises(Problem, match="seed"):
            law(table, seed=1.5)
    with pytest.raises(Problem, match="half"):
        data.self_masked(table[:, :1])
    for shape in [(1, 2, 4), (2, 5), (1, 5, 2), (1, 2, 5), (10,)]:
        with pytest.raises(Problem, match="shape"):
            data.quarters(table, shape)


# --- tables ---------------------------------------------------------------------------------------


@pytest.fixture
def csv(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_a_table_with_every_marker_of_a_hole(csv):
    holes = ["", "NA", "nan", "NULL", "?", "N/A", "null", "None", "<NA>", "#N/A", " ", " ? "]
    path = csv("a,b\n1,-2.5\n" + "".join(f"{n},{hole}\n" for n, hole in enumerate(holes)))
    t = data.read_table(path)
    assert t.columns == ["a", "b"] and t.values.dtype == np.float64
    assert t.values[0].tolist() == [1, -2.5] and np.isnan(t.values[1:, 1]).all()
    assert t.values[1:, 0].tolist() == list(range(12)) and t.frame["a"].dtype == np.int64


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,\n",
        "\ufeffa,b\r\n1,2\r\n3,\r\n",
        '\n a , "b"\n\n1, 2\n  \n3,NA\n\n',
        '"a","b"\n"1",2\n3,""\n',
    ],
    ids=["plain", "excel", "spaced", "quoted"],
)
def test_the_same_table_in_other_clothes(csv, text):
    t = data.read_table(csv(text))
    assert t.columns == ["a", "b"]
    np.testing.assert_array_equal(t.values, [[1, 2], [3, np.nan]])


REFUSED = {
    "": "is empty",
    "\n\n": "is empty",
    "a,b\n": "0 rows",
    "a,b\n1,2\n": "1 rows",
    "a;b\n1,5;2\n3;4\n": "';'",
    "a\tb\n1\t2\n3\t4\n": "\\\\t",
    "a\n1;2\n3;4\n": "';'",
    "a,a\n1,2\n3,4\n": "two columns are named a",
    "a, a\n1,2\n3,4\n": "two columns are named a",
    ",a\n0,1\n1,2\n": "column 1 has no name",
    "5.1,3.5\n4.9,3.0\n4.7,3.2\n": "header line is missing",
    "a,b\n1,2,3\n4,5\n": "line 2 .* has 3 values",
    "a,b\n1,2\n4\n": "line 3 .* has 1 values",
    "a,b\n1,2\n3,inf\n": "'b' is infinite: 'inf' .line 3",
    "a,b\n1,2\n3,-1e999\n": "'b' is infinite",
    "a,b\nx,y\nz,w\n": "no numeric column",
    'a,b\n1,"2\n3,4\n': "cannot be read",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_table_is_refused(csv, text):
    with pytest.raises(Problem, match=REFUSED[text]):
        data.read_table(csv(text))


def test_a_wrong_separator_is_answered_with_a_line_that_converts(csv, tmp_path, monkeypatch):
    path = csv("a;b\n1,5;2\n3;4\n")
    with pytest.raises(Problem) as problem:
        data.read_table(path)
    monkeypatch.chdir(tmp_path)
    eval(problem.value.remedy, {"pandas": pandas})
    assert data.read_table("commas.csv").values.tolist() == [[1.5, 2], [3, 4]]


def test_text_is_named_with_its_lines(csv):
    with pytest.raises(Problem) as problem:
        data.read_table(csv('a,b\n1,2\n\n3,low\n"4\n",5\n6,7 kg\n7,?\n8,"1,000"\n9,high\n'))
    seen = problem.value.seen
    # Line numbers as an editor shows them: after a blank line and a cell with a line break.
    for part in ("'b'", "4 cells", "'low' (line 4)", "'7 kg' (line 7)", "'1,000' (line 9)"):
        assert part in seen
    assert "high" not in seen and "?" not in seen


def test_files_that_are_none(csv, tmp_path):
    for path, seen in [(tmp_path / "absent.csv", "there is no file"), (tmp_path, "cannot be read")]:
        with pytest.raises(Problem, match=seen):
            data.read_table(path)
    with pytest.raises(Problem, match="UTF-8"):
        data.read_table(csv("größe,b\n1,2\n3,4\n", encoding="latin-1"))


def test_frames_are_read_like_files():
    frame = pandas.DataFrame(
        {
            "whole": pandas.array([1, None, 3], dtype="Int64"),
            "yes": [True, False, True],
            "text": ["1.5", "?", None],
            "mixed": [1, "2", np.nan],
            "empty": [None, None, None],
            5: np.float32([1, 2, 3]),
        },
        index=["r", "s", "t"],
    )
    t = data.from_frame(frame)
    nan = np.nan
    expected = [[1, 1, 1.5, 1, nan, 1], [nan, 0, nan, 2, nan, 2], [3, 1, nan, nan, nan, 3]]
    np.testing.assert_array_equal(t.values, expected)
    assert t.columns == ["whole", "yes", "text", "mixed", "empty", "5"] and t.frame is frame
    good = frame[[5]]
    with pytest.raises(Problem, match="'when' is not numeric: .*row 't'"):
        data.from_frame(good.assign(when=pandas.Timestamp("2020-01-01")))
    with pytest.raises(Problem, match="'z' is not numeric"):
        data.from_frame(good.assign(z=1j))
    with pytest.raises(Problem, match="infinite: .*row 't'"):
        data.from_frame(good.assign(z=[0, 1, np.inf]))
    for bad in (pandas.concat([good, good], axis=1), good[:1], good[[]], np.zeros((3, 3))):
        with pytest.raises(Problem):
            data.from_frame(bad)


def test_written_tables_read_back_bit_for_bit(tmp_path):
    chance = np.random.default_rng(0)
    values = chance.normal(size=(2000, 3)) * 10.0 ** chance.integers(-300, 300, size=(2000, 3))
    values[::7, 1] = np.nan
    data.write_table(pandas.DataFrame(values, columns=["a", "b, c", 'd "e"']), tmp_path / "out.csv")
    t = data.read_table(tmp_path / "out.csv")
    np.testing.assert_array_equal(t.values, values)
    assert t.columns == ["a", "b, c", 'd "e"'] and os.listdir(tmp_path) == ["out.csv"]


class Unwritable:
    def __str__(self):
        raise RuntimeError("half way")


def test_an_existing_file_survives_unless_forced(tmp_path):
    path, frame = tmp_path / "out.csv", pandas.DataFrame({"a": [1, 2]})
    path.write_text("precious")
    with pytest.raises(Problem, match="exists"):
        data.write_table(frame, path)
    broken = pandas.DataFrame({"a": [1, Unwritable()]}, dtype=object)
    with pytest.raises(RuntimeError, match="half way"):
        data.write_table(broken, path, force=True)
    assert path.read_text() == "precious" and os.listdir(tmp_path) == ["out.csv"]
    data.write_table(frame, path, force=True)
    assert path.read_text() == "a\n1\n2\n"
    os.mkfifo(tmp_path / "pipe")
    for bad in (tmp_path, tmp_path / "pipe", tmp_path / "absent" / "out.csv"):
        with pytest.raises(Problem):
            data.write_table(frame, bad, force=True)
    assert sorted(os.listdir(tmp_path)) == ["out.csv", "pipe"] and (tmp_path / "pipe").is_fifo()
