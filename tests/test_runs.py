"""Runs that survive: a fit that is stopped anywhere goes on bit for bit, and a file that is damaged is named."""

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from examples import pair

import ppvae
from ppvae.errors import Caution
from ppvae.files import digest, read_record, write_record, write_whole
from ppvae.fitting import checkpoint, diagnosis
from ppvae.fitting.checkpoint import Checkpoint
from ppvae.fitting.passes import Passes
from ppvae.fitting.progress import Progress, summary
from ppvae.fitting.update import Update

OPTIONS = {"epochs": 3, "batch_size": 16, "held_out": 0.2, "redraw": torch.bernoulli}
STEPS = 3  # of an epoch: 60 rows, of which 12 are set aside


class Stopped(Exception):
    pass


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after each step."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0)


def rows(N=60):
    return torch.rand(N, 6, generator=torch.Generator().manual_seed(5)).clamp(0.1, 0.9)


def made(seed=0):
    return pair("vae", features=6, hidden=(8,), seed=seed)


def stopped(monkeypatch, folder, after, seed=0, stop=Stopped):
    """A fit that is stopped before its next step, once it has taken so many."""
    plain, count = Update.__call__, 0

    def counting(self, batch, done):
        nonlocal count
        if count == after:
            raise stop
        count += 1
        return plain(self, batch, done)

    with monkeypatch.context() as patch:
        patch.setattr(Update, "__call__", counting)
        with pytest.raises(stop):
            ppvae.fit(made(seed), rows(), checkpoint=folder, **OPTIONS)


def numbers(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.fixture
def whole():
    one = made()
    return one, ppvae.fit(one, rows(), **OPTIONS)


def same(one, other):
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("after", range(0, 3 * STEPS, 2))
def test_a_fit_stopped_between_two_steps_goes_on_bit_for_bit(often, whole, monkeypatch, tmp_path, after):
    stopped(monkeypatch, tmp_path / "run", after)
    again = made(9 if after else 0)  # before the first checkpoint there is nothing to go on from
    result = ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0]) and numbers(result.history) == numbers(whole[1].history)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert numbers(lines) == json.loads(json.dumps(numbers(whole[1].history)))


def test_between_two_checkpoints_the_epoch_s_beginning_is_kept(whole, monkeypatch, tmp_path):
    """Ten seconds have not passed: what is stopped in its third epoch has the first two."""
    stopped(monkeypatch, tmp_path / "run", 2 * STEPS + 2, stop=KeyboardInterrupt)
    state = read_record(tmp_path / "run" / "last.pt")
    assert len(state["history"]) == 2 and state["position"] is None
    again = made(9)
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0])


BETWEEN = {  # what happens between the steps of two epochs, and how many epochs are done then
    "the state before": (diagnosis, "_generators", 3, 2),
    "held-out rows": (Passes, "held_out", 3, 2),
    "the best so far": (Checkpoint, "add", 3, 2),
    "the progress line": (Progress, "report", 3, 3),
}


@pytest.mark.parametrize("place", BETWEEN)
def test_stopped_between_the_steps_of_two_epochs_no_epoch_is_lost(whole, monkeypatch, tmp_path, place):
    """Ten seconds have not passed here either."""
    owner, name, calls, epochs = BETWEEN[place]
    plain, count = getattr(owner, name), 0

    def stopping(*given):
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            ppvae.fit(made(), rows(), checkpoint=tmp_path / "run", **OPTIONS)
    state = read_record(tmp_path / "run" / "last.pt")
    assert len(state["history"]) == epochs and state["position"] is None
    again = made(9)
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0])


def test_a_checkpoint_that_is_broken_off_in_an_epoch_is_written_as_of_its_beginning(whole, monkeypatch, tmp_path):
    """Not with the place in the epoch at which it was broken off."""
    with monkeypatch.context() as patch:
        pauses = iter([False] * 2 * (STEPS - 1) + [True])

        def pausing(self, position):
            if next(pauses):
                self.position = position
                raise KeyboardInterrupt

        patch.setattr(Checkpoint, "pause", pausing)
        with pytest.raises(KeyboardInterrupt):
            ppvae.fit(made(), rows(), checkpoint=tmp_path / "run", **OPTIONS)
    again = made(9)
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0])


def test_stopped_again_and_again(often, whole, monkeypatch, tmp_path):
    for after in (1, 3, 1, 2):
        stopped(monkeypatch, tmp_path / "run", after)
    again = made(9)
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0])


def test_a_run_s_folder_says_what_where_and_how_far(whole, tmp_path):
    one, result = whole
    again = made()
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.pt",
        "config.json",
        "environment.json",
        "last.pt",
        "metrics.jsonl",
        "previous.pt",
    ]
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    assert told["epochs"] == 3 and told["rows"] == 60 and "vae" in told["pair"] and "elbo" in told["objective"]
    (where,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert where["torch"] == torch.__version__ and where["epochs_behind"] == 0
    best = max(result.history, key=lambda record: record["held_out"])
    found, notes = ppvae.catalogue.read(tmp_path / "run")
    assert notes == {"epoch": best["epoch"], "held_out": best["held_out"]}
    assert same(ppvae.load(tmp_path / "run" / "last.pt"), one)
    assert same(found, ppvae.load(tmp_path / "run" / "best.pt"))


# --- damage ---------------------------------------------------------------------------------------------


def damaged(path, how):
    raw = bytearray(path.read_bytes())
    if how == "truncated":
        raw = raw[: len(raw) // 2]
    elif how == "a bit":
        raw[raw.find(b"lizedraw") if b"lizedraw" in raw else len(raw) // 2] ^= 1
    elif how == "empty":
        raw = bytearray()
    elif how == "a pickle":
        import pickle

        raw = bytearray(pickle.dumps(Path("/tmp")))
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["truncated", "a bit", "empty", "a pickle"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(often, whole, monkeypatch, tmp_path, how):
    stopped(monkeypatch, tmp_path / "run", 6)
    damaged(tmp_path / "run" / "last.pt", how)
    again = made(9)
    with pytest.warns(Caution, match=r"last\.pt (cannot be read|is damaged).*going on from .*previous\.pt"):
        ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0])


def test_with_both_damaged_nothing_is_begun_anew(often, monkeypatch, tmp_path):
    stopped(monkeypatch, tmp_path / "run", 6)
    for name in ("last.pt", "previous.pt"):
        damaged(tmp_path / "run" / name, "truncated")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ppvae.Problem, match="last.pt cannot be read"):
        ppvae.fit(made(), rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_a_process_killed_between_two_renames_left_the_one_before(often, whole, monkeypatch, tmp_path):
    stopped(monkeypatch, tmp_path / "run", 6)
    (tmp_path / "run" / "last.pt").rename(tmp_path / "run" / ".last.pt.abc")
    again = made(9)
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0]) and not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("bits", [3000])
def test_no_flipped_bit_is_read_as_what_was_written(tmp_path, bits):
    """A zip of torch takes most of them for what they are not."""
    record = {"x": torch.arange(200.0), "y": [{"a": (1, 2.5, None)}], "n": "words"}
    write_record(tmp_path / "a", record)
    raw, chance, wrong = (tmp_path / "a").read_bytes(), random.Random(0), 0
    for _ in range(bits):
        flipped = bytearray(raw)
        flipped[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        (tmp_path / "b").write_bytes(flipped)
        try:
            found = read_record(tmp_path / "b")
        except ppvae.Problem:
            wrong += 1
        else:
            assert digest(found) == digest(record)
    assert wrong > bits / 4


def test_an_old_format_and_a_plain_pair_are_no_checkpoint(often, monkeypatch, tmp_path):
    stopped(monkeypatch, tmp_path / "run", 2)
    last = tmp_path / "run" / "last.pt"
    write_record(last, read_record(last) | {"format": 1})
    with pytest.raises(ppvae.Problem, match="has the format 1 and not 2"):
        ppvae.fit(made(), rows(), checkpoint=tmp_path / "run", **OPTIONS)
    ppvae.save(made(), last)
    with pytest.raises(ppvae.Problem, match="is no checkpoint"):
        ppvae.fit(made(), rows(), checkpoint=tmp_path / "run", **OPTIONS)


def test_the_middle_of_an_epoch_stays_on_its_kind_of_device(often, monkeypatch, tmp_path):
    stopped(monkeypatch, tmp_path / "run", 2)
    last = tmp_path / "run" / "last.pt"
    write_record(last, read_record(last) | {"device": "cuda"})
    with pytest.raises(ppvae.Problem, match="in the middle of an epoch on cuda"):
        ppvae.fit(made(), rows(), checkpoint=tmp_path / "run", **OPTIONS)


def test_a_pair_that_was_saved_before_there_were_digests_is_read(tmp_path):
    one = made()
    ppvae.save(one, tmp_path / "a.pt", data="x")
    record = read_record(tmp_path / "a.pt")
    torch.save(record | {"ppvae": 1}, tmp_path / "old.pt")
    assert same(ppvae.load(tmp_path / "old.pt"), one)
    torch.save(record, tmp_path / "cut.pt")  # of the new kind, its digest lost
    with pytest.raises(ppvae.Problem, match="is damaged"):
        ppvae.load(tmp_path / "cut.pt")


# --- places that cannot be written to -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a_file", "other", "nowhere/run"])
def test_a_path_that_is_no_run_is_refused_and_left(tmp_path, name):
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("y")
    with pytest.raises(ppvae.Problem, match="is a file|holds 'thesis.tex' and no run|there is no folder"):
        ppvae.fit(made(), rows(), checkpoint=tmp_path / name, **OPTIONS)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a_file", "other", "thesis.tex"]


def test_a_full_disk_in_the_middle_leaves_the_earlier_checkpoint(often, whole, monkeypatch, tmp_path):
    stopped(monkeypatch, tmp_path / "run", 5)
    kept = (tmp_path / "run" / "last.pt").read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ppvae.Problem, match=r"cannot be written \(No space left on device\)"):
            ppvae.fit(made(9), rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert (tmp_path / "run" / "last.pt").read_bytes() == kept and not list((tmp_path / "run").glob(".*"))
    again = made(9)
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", **OPTIONS)
    assert same(again, whole[0])


def test_a_small_disk_that_fills_up(tmp_path):
    """A real one, of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        one = pair("vae", features=6, hidden=(20,))
        ppvae.fit(one, rows().round(), checkpoint=disk / "run", epochs=1)
        kept = (disk / "run" / "last.pt").read_bytes()
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize))
        with pytest.raises(ppvae.Problem, match="cannot be written"):
            ppvae.save(one, disk / "run" / "pair.pt")
        with pytest.raises(ppvae.Problem, match="cannot be written"):
            write_whole(disk / "run" / "last.pt", lambda draft: Path(draft).write_bytes(kept))
        assert (disk / "run" / "last.pt").read_bytes() == kept and not list((disk / "run").glob(".*"))
        with pytest.raises(ppvae.Problem, match="cannot be (written|made)"):
            ppvae.fit(one, rows().round(), checkpoint=disk / "other", epochs=1)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_may_not_be_written_to(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    target = Path("/proc/run") if os.geteuid() == 0 else tmp_path / "closed" / "run"  # root may write anywhere else
    with pytest.raises(ppvae.Problem, match="cannot be made"):
        ppvae.fit(made(), rows(), checkpoint=target, **OPTIONS)


# --- kills ----------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, torch
import ppvae
from ppvae.fitting import checkpoint
from ppvae.fitting.progress import Progress, summary
from ppvae.cli import _terminate
import signal
signal.signal(signal.SIGTERM, _terminate)
checkpoint.EVERY, checkpoint.SHARE = 0.02, 1
torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[2]))
x = torch.rand(400, 6, generator=torch.Generator().manual_seed(5)).clamp(0.1, 0.9)
pair = ppvae.make("vae", features=6, latents=2, hidden=(8,))
plain = checkpoint.Checkpoint.whole
def told(self, epoch):
    print(epoch, flush=True)
    return plain(self, epoch)
checkpoint.Checkpoint.whole = told
options = dict(epochs=int(sys.argv[3]), batch_size=16, held_out=0.2, redraw=torch.bernoulli)
ppvae.fit(pair, x, checkpoint=sys.argv[1], progress=False, **options)
torch.save(pair.state_dict(), sys.argv[1] + ".part")
os.replace(sys.argv[1] + ".part", sys.argv[1] + ".state")
"""


def killed_until_done(folder, kills, seed, epochs):
    """Run the script, kill it at random moments, and run it again, until it has been killed so often; then to its end.

    Returns:
        How many of the kills found it at work, and how often it went on from a checkpoint.
    """
    chance, hits = random.Random(seed), 0
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for kill in range(kills + 1):
        begun = any(
            (folder / "run" / name).exists() for name in ("last.pt", "previous.pt")
        )  # before, nothing to go on from
        words = [sys.executable, "-c", SCRIPT, str(folder / "run"), "7" if begun else "0", str(epochs)]
        running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if kill < kills and running.stdout.readline():
            time.sleep(chance.uniform(0.0, 1.5))
            hits += running.poll() is None
            running.send_signal(chance.choice(signals))
        _, err = running.communicate(timeout=120)
        for path in (folder / "run").glob("*"):
            if path.suffix == ".pt":
                read_record(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text().splitlines()]
        if Path(f"{folder}/run.state").exists():
            break
    assert Path(f"{folder}/run.state").exists(), err  # what is killed while it ends has ended well
    return hits, len(json.loads((folder / "run" / "environment.json").read_text())) - 1


def undisturbed(folder, epochs):
    words = [sys.executable, "-c", SCRIPT, str(folder / "whole"), "0", str(epochs)]
    assert subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 0
    return torch.load(f"{folder}/whole.state")


def test_a_fit_that_is_killed_ends_with_the_same_bits(tmp_path):
    wanted = undisturbed(tmp_path, 40)
    hits, _ = killed_until_done(tmp_path, 2, seed=1, epochs=40)
    found = torch.load(tmp_path / "run.state")
    assert hits and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    wanted, hits, resumed, runs = undisturbed(tmp_path, 200), 0, 0, 0
    while hits < 200:
        folder = tmp_path / str(runs)
        folder.mkdir()
        found = killed_until_done(folder, 40, seed=runs, epochs=200)
        hits, resumed, runs = hits + found[0], resumed + found[1], runs + 1
        state = torch.load(folder / "run.state")
        assert all(torch.equal(state[name], wanted[name]) for name in wanted), folder
        print(f"{hits} kills in {runs} runs, {resumed} times gone on", flush=True)


# --- the progress line ----------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


RECORD = {"epoch": 1, "bound": -44.314, "held_out": -43.806, "likelihood": -43.92, "kl": {"a": 0.39, "z": 1.0}}


def test_an_epoch_in_words():
    assert summary(RECORD) == "bound -44.31, held out -43.81, likelihood -43.92, KL a 0.39, KL z 1.00 nats per row"
    assert summary({"bound": 3.0}) == "bound 3.00 nats per row"


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_the_line_fits_the_terminal(monkeypatch, columns):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with Progress(2, 4, 60, [], True) as bar:
        bar.advance()
        bar.report(RECORD | {"seconds": 0.5})
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]", terminal.getvalue())]
    assert max(map(len, lines)) <= columns and any("1/2" in line and "bound -44.31" in line for line in lines)
    assert any("120 rows/s" in line for line in lines) == (columns == 160)
    assert terminal.getvalue().count("\n") <= 1


def test_without_a_terminal_there_is_a_plain_line_an_epoch(capsys):
    with Progress(3, 4, 60, [], True) as bar:
        bar.report(RECORD | {"seconds": 0.5})
    _, err = capsys.readouterr()
    assert err == f"epoch 1/3: {summary(RECORD)}, 120 rows/s, 1 s left\n"


def test_a_clock_that_does_not_move_stops_nothing(monkeypatch, whole, tmp_path):
    monkeypatch.setattr(time, "perf_counter", lambda: 5.0)
    again = made()
    ppvae.fit(again, rows(), checkpoint=tmp_path / "run", progress=True, **OPTIONS)
    assert same(again, whole[0])


# --- TensorBoard ----------------------------------------------------------------------------------------


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_has_each_number_once_after_a_fit_was_stopped(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    options = OPTIONS | {"tensorboard": tmp_path / "board", "checkpoint": tmp_path / "run"}

    class Late(checkpoint.Checkpoint):
        def add(self, record):
            super().add(record)
            if record["epoch"] == 2 and not (tmp_path / "again").exists():
                raise Stopped

    monkeypatch.setattr("ppvae.fitting.loop.Checkpoint", Late)
    with pytest.raises(Stopped):
        ppvae.fit(made(), rows(), **options)
    (tmp_path / "again").touch()
    history = ppvae.fit(made(9), rows(), **options).history
    found = scalars(tmp_path / "board")
    assert set(found) == {"bound", "held_out", "likelihood", "learning_rate", "kl/z"}
    for name, values in found.items():
        wanted = [r["kl"]["z"] if name == "kl/z" else r[name] for r in history]
        assert [step for step, _ in values] == [1, 2, 3] and [v for _, v in values] == pytest.approx(wanted), name


def test_tensorboard_that_is_not_there_and_a_folder_that_is_a_file(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ppvae.Problem, match="not installed"):
        ppvae.fit(made(), rows(), tensorboard=tmp_path / "board", **OPTIONS)
    monkeypatch.undo()
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    (tmp_path / "a_file").write_text("x")
    with pytest.raises(ppvae.Problem, match="cannot be written to"):
        ppvae.fit(made(), rows(), tensorboard=tmp_path / "a_file", **OPTIONS)
