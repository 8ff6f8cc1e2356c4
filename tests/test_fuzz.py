"""Inputs that nobody meant: each ends in a result or in a message, never in a traceback, a hang or half a file.

A few hundred cases at each run; 100,000 with ``pytest -m slow tests/test_fuzz.py``.
"""

import io
import json
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ppvae
from ppvae.cli import main
from ppvae.data import read_table
from ppvae.files import read_record, write_record

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
ALARM = 60  # seconds: a case that takes longer hangs


def cases(few, many):
    """The number of cases: few at each run, many on request."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def fuzz(count, **strategies):
    """Run a function on so many cases, the same ones each time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    chosen = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=checks,
        print_blob=False,
    )
    return lambda function: chosen(given(**strategies)(function))()


@contextmanager
def no_hang():
    def late(*_):
        raise AssertionError(f"still at it after {ALARM} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(ALARM)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- tables ---------------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from(
        ["", "1", "-2.5", "1e308", "1e309", "nan", "NA", "?", "inf", " 3 ", '"4"', '"a,b"', '"a\n1"', "x", "1,5"]
    ),
    st.floats().map(repr),
    st.text("0123456789.,;-+eE\"' \tNaxé\x00\r\n", max_size=8),
    st.text(max_size=6),
)
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""])


@st.composite
def csv(draw):
    """A table, more or less: its header, its rows, and what may go wrong in each."""
    columns = draw(st.integers(0, 4))
    header = draw(st.lists(st.one_of(st.sampled_from("abcd"), CELLS), min_size=columns, max_size=columns))
    widths = st.one_of(st.just(columns), st.integers(0, 5))
    rows = [draw(st.lists(CELLS, min_size=w, max_size=w)) for w in draw(st.lists(widths, max_size=6))]
    sign, end = draw(st.sampled_from(",,,,;\t|")), draw(ENDS)
    text = draw(st.sampled_from(["", "", "", "\ufeff"])) + end.join(sign.join(row) for row in [header, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig"])), "replace")


def bent(raw):
    """Bytes with a few of them changed, cut or put twice."""

    @st.composite
    def one(draw):
        found = bytearray(raw)
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, max(len(found) - 1, 0)))
            how = draw(st.sampled_from(["flip", "cut", "drop", "twice", "write"]))
            if how == "flip" and found:
                found[start] ^= 1 << draw(st.integers(0, 7))
            elif how == "cut":
                del found[start:]
            elif how == "drop":
                del found[start : start + draw(st.integers(1, 64))]
            elif how == "twice":
                found[start:start] = found[start : start + draw(st.integers(1, 64))]
            elif how == "write":
                found[start : start + 8] = draw(st.binary(max_size=8))
        return bytes(found)

    return one()


def parquet():
    frame = pd.DataFrame({"a": [1.0, None, 3.0], "b": [1, 2, 3], "word": ["x", None, "z"]})
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def read(path, text):
    """A table that keeps its promises, or a message."""
    try:
        with no_hang():
            table = read_table(path, text)
    except ppvae.Problem as problem:
        assert problem.seen and problem.cause and problem.remedy
        return
    N, D = table.values.shape
    assert table.values.dtype == np.float64 and N >= 2 and not np.isinf(table.values).any()
    assert len(table.columns) == len(table.positions) == D and len(table.frame) == N
    assert len(set(table.columns)) == D and all(table.columns)
    assert [str(table.frame.columns[j]) for j in table.positions] == table.columns
    assert table.where(N - 1).startswith(("line", "row"))
    assert text != "refuse" or not table.passed


@cases(300, 70_000)
def test_a_table_is_read_or_refused(tmp_path, count):
    pytest.importorskip("pyarrow", reason="Parquet is read by pyarrow")
    whole = b"a,b,c\n1,2,3\n4,,6\n7,8,\n"

    @fuzz(
        count,
        raw=st.one_of(
            csv().map(lambda raw: ("t.csv", raw)),
            bent(whole).map(lambda raw: ("t.csv", raw)),
            st.binary(max_size=60).map(lambda raw: ("t.csv", raw)),
            bent(parquet()).map(lambda raw: ("t.parquet", raw)),
        ),
        text=st.sampled_from(["refuse", "keep", "words"]),
    )
    def each(raw, text):
        (tmp_path / raw[0]).write_bytes(raw[1])
        read(tmp_path / raw[0], text)


# --- checkpoints ------------------------------------------------------------------------------------------

ROWS = torch.arange(24.0).reshape(8, 3).sin()
FIT = dict(epochs=2, batch_size=4, seed=0, progress=False, compile="off")
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=4), st.just(torch.ones(2))),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


def fitted(folder):
    pair = ppvae.make("vae", 3, 1, hidden=(2,), likelihood="normal")
    ppvae.fit(pair, ROWS, checkpoint=folder, held_out=0.25, **FIT)
    return pair


def whole_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loaded(path, known):
    """What was written, or a message."""
    try:
        with no_hang():
            pair = ppvae.load(path)
    except ppvae.Problem:
        return
    assert all(torch.equal(value, pair.state_dict()[name]) for name, value in known.items())


@cases(60, 20_000)
def test_a_damaged_pair_is_refused(tmp_path, count):
    pair = ppvae.make("vae", 3, 1, hidden=(2,), likelihood="normal")
    ppvae.save(pair, tmp_path / "whole.pt")
    known = pair.state_dict()

    @fuzz(count, raw=st.one_of(bent((tmp_path / "whole.pt").read_bytes()), st.binary(max_size=60)))
    def each(raw):
        (tmp_path / "pair.pt").write_bytes(raw)
        loaded(tmp_path / "pair.pt", known)


@cases(20, 2_000)
def test_a_damaged_checkpoint_is_refused_and_left(tmp_path, count):
    """Nor is it begun anew over it."""
    whole = fitted(tmp_path / "run").state_dict()
    (tmp_path / "run" / "previous.pt").unlink(missing_ok=True)
    kept, last = whole_files(tmp_path / "run"), tmp_path / "run" / "last.pt"

    @fuzz(count, raw=st.one_of(bent(kept["last.pt"]), st.binary(max_size=60)))
    def each(raw):
        last.write_bytes(raw)
        before = whole_files(tmp_path / "run")
        pair = ppvae.make("vae", 3, 1, hidden=(2,), likelihood="normal")
        try:
            with no_hang():
                ppvae.fit(pair, ROWS, checkpoint=tmp_path / "run", held_out=0.25, **FIT)
        except ppvae.Problem:
            assert whole_files(tmp_path / "run") == before
        else:
            assert all(torch.equal(value, pair.state_dict()[name]) for name, value in whole.items())


@cases(40, 3_000)
def test_a_record_of_something_else_is_refused(tmp_path, count):
    """Whole, with its digest, and not what this version writes."""
    fitted(tmp_path / "run")
    record, last = read_record(tmp_path / "run" / "last.pt"), tmp_path / "run" / "last.pt"
    places = sorted(record) + ["arguments.features", "arguments.hidden", "position.x", "of.pair", "state.x"]

    def goes_on(folder):
        pair = ppvae.make("vae", 3, 1, hidden=(2,), likelihood="normal")
        ppvae.fit(pair, ROWS, checkpoint=folder, held_out=0.25, **FIT)

    @fuzz(count, place=st.sampled_from(places), value=VALUES, drop=st.booleans())
    def each(place, value, drop):
        name, _, inner = place.partition(".")
        other = dict(record)
        if inner and isinstance(other[name], dict):
            other[name] = {**other[name], inner: value}
        elif drop:
            del other[name]
        else:
            other[name] = value
        write_record(last, other)
        for reads in (lambda: ppvae.load(last), lambda: goes_on(tmp_path / "run")):
            try:
                with no_hang():
                    reads()
            except ppvae.Problem as problem:
                assert problem.remedy


# --- the command line -----------------------------------------------------------------------------------

GOOD = [
    "list --json out.json",
    "info --json out.json",
    "fit factor_analysis_exact --data holes.csv --latents 1 --epochs 1 --rows 3 --particles 2 -o new --json out.json",
    "fit vae --data holes.csv --latents 1 --hidden 2 --epochs 1 --rows 3 --particles 2 --compile off --held-out 0.2 --patience 1 --seed 1",
    "fit --resume run",
    "evaluate run --rows 3 --particles 2 --hide 0.5 --seed 3 --json out.json",
    "evaluate pair.pt --data holes.csv --rows 3 --particles 2 --report page.html",
    "impute holes.csv -o out.csv --latents 1 --draws 2 --json out.json --force",
    "impute words.csv -o out.parquet --kind a=real --kind w=aside --latents 1",
]
NEVER = [  # these take long where nothing is wrong with them
    "demo --output new --seed 1 --json .",
    "bench training --rounds 2 --threads 1 --json .",
    "reproduce evidence --seeds 1 --budget smoke --figures new --json .",
]
OTHERS = """
    holes.csv words.csv empty.csv binary.csv folder run pair.pt broken.pt x.npy nowhere/x . .. / out.csv -
    0 1 -1 2.5 nan inf 1e400 99999999999999999999 0x10 elbo iw_elbo cuda cuda:7 tf32 a=real a=x =real a= a=1<2<3
    vae factor_analysis semi_supervised_vae vgae digits breast nothing --help --nothing -h -- -o5 --rows=1 --json=
    [red] %s {}
"""
OPTIONS = sorted({word for line in GOOD + NEVER for word in line.split() if word.startswith("-")})
WORDS = [*OPTIONS, *OTHERS.split(), "", " ", "\u00e9", "\x00", "a b", "\ud800"]


@st.composite
def command(draw):
    line = draw(st.sampled_from([*GOOD, *GOOD, *NEVER]))
    words = line.split()
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(words)))
        how = draw(st.sampled_from(["put", "take", "change", "twice", "swap"]))
        other = draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)))
        if how == "put":
            words.insert(place, other)
        elif how == "take":
            words[place : place + 1] = []
        elif how == "change":
            words[place : place + 1] = [other]
        elif how == "twice":
            words[place:place] = words[place : place + 2]
        elif words:
            words[place - 1], words[0] = words[0], words[place - 1]
    return words if line not in NEVER else [words[0] if words else "demo", *words[1:], "--json", "."]


def place_of_work(folder):
    """What the commands find: tables, a run that was stopped, a pair, and things that are none of these."""
    chance = np.random.default_rng(0)
    x = chance.normal(size=(40, 1)) + 0.1 * chance.normal(size=(40, 3))
    frame = pd.DataFrame(np.where(chance.random(x.shape) < 0.1, np.nan, x), columns=list("abc")).fillna({"a": 0.5})
    frame.to_csv(folder / "holes.csv", index=False)
    frame.assign(w="word").to_csv(folder / "words.csv", index=False)
    (folder / "empty.csv").write_text("")
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    np.save(folder / "x.npy", x)
    (folder / "folder").mkdir()
    (folder / "folder" / "thesis.tex").write_text("all of it")
    ppvae.save(ppvae.make("vae", 3, 1, hidden=(2,), likelihood="normal"), folder / "pair.pt")
    (folder / "broken.pt").write_bytes((folder / "pair.pt").read_bytes()[:900])


def run(words):
    """Exit code, output and errors of a command."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = signal.getsignal(signal.SIGTERM), warnings.showwarning, sys.argv, torch.get_num_threads()
    sys.argv = ["ppvae", *words]
    try:
        with redirect_stdout(out), redirect_stderr(err), no_hang():
            main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        signal.signal(signal.SIGTERM, before[0])
        warnings.showwarning, sys.argv = before[1:3]
        torch.set_num_threads(before[3])
    return code, out.getvalue(), err.getvalue()


def halves(folder):
    """The files that are not whole."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        try:
            if path.name.startswith("."):
                raise ValueError("a draft")
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".parquet":
                pd.read_parquet(path)
            elif path.suffix == ".pt" and path.name not in KEPT:
                read_record(path)
            elif path.suffix == ".html":
                assert path.read_text().rstrip().endswith("</html>")
        except Exception as error:
            found.append((path, error))
    return found


KEPT = ["holes.csv", "words.csv", "empty.csv", "binary.csv", "x.npy", "folder/thesis.tex", "pair.pt", "broken.pt"]


@cases(20, 5_000)
def test_a_command_ends_in_a_result_or_a_message(tmp_path, monkeypatch, count):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path / "no_data"))  # nothing is downloaded
    first = tmp_path / "first"
    first.mkdir()
    monkeypatch.chdir(first)
    place_of_work(first)
    assert run([*GOOD[3].split(), "-o", "run"])[0] == 0
    shutil.copy("run/pair.pt", "pair.pt")
    kept = {name: (first / name).read_bytes() for name in KEPT}

    @fuzz(count, words=command())
    def each(words):
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(first, folder)
        if "--resume" in words:
            (folder / "run" / "pair.pt").unlink()
        monkeypatch.chdir(folder)
        code, out, err = run(words)
        assert code in (0, 2), (code, err)
        assert "Traceback" not in out + err
        assert code != 2 or "Error" in err or "Cannot go on" in err or "Usage" in out + err, (words, out, err)
        named = [Path(word).name for word in words]
        for name, raw in kept.items():
            if not ("--force" in words and Path(name).name in named):
                assert (folder / name).read_bytes() == raw, name
        assert not halves(folder), halves(folder)
