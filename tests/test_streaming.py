"""Rows in files: the bits of rows in memory, the door's own words, and no thread, memory or file left behind."""

import sys
import threading
import time
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import pair
from pyro import poutine
from torch import nn

import ppvae
from ppvae.fitting import mapped, streaming
from ppvae.fitting.rows import Rows

N, D = 103, 6  # a smaller last batch
STEPS = {"epochs": 1, "batch_size": 16, "compile": "off"}
rng = np.random.default_rng(0)
GREY = rng.random((N, D))
BINARY = (GREY < 0.4).astype(np.uint8)
REAL = rng.normal(size=(N, D)) * [1, 1, 3, 1, 1, 1]
HOLES = np.where(rng.random((N, D)) < 0.2, np.nan, REAL)
HOLES[:, 0] = REAL[:, 0]
SEEN = rng.random((N, D)) < 0.7
SEEN[:, 0] = True


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch):
    monkeypatch.setattr(mapped, "PART", 20 * D)  # six parts


@pytest.fixture
def on_disk(tmp_path):
    """The same array as a memmap, in a file of its own."""

    def save(array):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    return save


def vae(likelihood="bernoulli", seed=0):
    return pair("vae", features=D, seed=seed, hidden=(8,), likelihood=likelihood)


def same(a, b):
    return all(torch.equal(u, v) for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def numbers(fitted):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in fitted.history]


def refused(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppvae.Caution)
        with pytest.raises(ppvae.Problem) as problem:
            call()
    return str(problem.value)


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith(streaming.READER)]


# --- the same bits ----------------------------------------------------------------------------------------

FITS = {
    "bytes": (BINARY, None, {}),
    "held out": (BINARY, None, {"held_out": 0.2, "patience": 2, "compile": "auto"}),
    "missing": (HOLES, None, {"held_out": 0.1, "compile": "auto"}),
    "single precision": (HOLES.astype(np.float32), None, {}),
    "a mask": (REAL, SEEN, {"held_out": 0.2}),
    "a mask of bytes, and missing": (HOLES, SEEN.astype(np.uint8), {}),
    "a mask by row": (REAL, SEEN[:, 1], {}),
    "a mask by row, and missing": (HOLES, SEEN[:, 1:2], {}),
    "a mask by row, and one missing": (np.where(np.arange(N * D).reshape(N, D) == 19, np.nan, REAL), SEEN[:, 1], {}),
    "redrawn": (GREY, None, {"redraw": torch.bernoulli}),
    "redrawn, held out, missing": (
        np.where(SEEN, GREY, np.nan),
        None,
        {"redraw": torch.bernoulli, "held_out": 0.3},
    ),
    "redrawn by more than one number an entry": (
        GREY,
        None,
        {"redraw": lambda p: (torch.rand(2, *p.shape) < p).any(0).to(p), "held_out": 0.1},
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_a_fit_from_files_is_the_fit_from_memory(on_disk, case):
    x, mask, options = FITS[case]
    made = [vae("normal" if np.nanmin(x) < 0 else "bernoulli") for _ in range(2)]
    options = {**STEPS, "epochs": 3, "clip": 10.0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppvae.Caution)  # rows of which nothing is seen
        memory = ppvae.fit(made[0], x, mask, **options)
        files = ppvae.fit(made[1], on_disk(x), mask if mask is None else on_disk(mask), **options)
    assert same(*made) and numbers(memory) == numbers(files) and memory.step == files.step
    assert not readers()


LAYOUTS = {
    "column after column": lambda save: save(np.asfortranarray(REAL)),
    "every other row and column of more": lambda save: save(REAL.repeat(2, 0).repeat(2, 1))[::2, 1::2],
    "the bytes of another machine": lambda save: save(REAL.astype(">f8")),
    "images": lambda save: save(REAL.reshape(N, 2, 3)).reshape(N, D),
}


def test_a_story_of_the_mask_is_told_of_it_from_files_too(on_disk):
    made = [pair("vae_not_at_random", features=D, latents=2, hidden=(8,)) for _ in range(2)]
    ppvae.fit(made[0], HOLES, **STEPS)
    ppvae.fit(made[1], on_disk(HOLES), **STEPS)
    assert same(*made)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_however_the_numbers_lie_in_the_file(on_disk, layout):
    x = LAYOUTS[layout](on_disk)
    assert mapped.in_files([x])
    made = [vae("normal"), vae("normal")]
    ppvae.fit(made[0], REAL, **STEPS)
    ppvae.fit(made[1], x, **STEPS)
    assert same(*made)


def test_what_was_copied_out_of_a_file_is_in_memory(on_disk):
    x = on_disk(REAL)
    assert mapped.in_files([x[3:], None]) and not mapped.in_files([x.copy(), x.astype("f4"), x[[1, 2]], x.tolist()])


def test_entries_by_name_of_which_some_lie_in_files(on_disk):
    label = rng.integers(0, 10, N)
    for x, given in ((on_disk(BINARY), label), (BINARY, on_disk(label)), (on_disk(BINARY), torch.as_tensor(label))):
        made = [pair("conditional_vae", features=D, hidden=(8,)) for _ in range(2)]
        ppvae.fit(made[0], {"x": BINARY, "label": label}, **STEPS)
        ppvae.fit(made[1], {"x": x, "label": given}, **STEPS)
        assert same(*made)
        for wrong in ({"x": x, "label": given[:-1]}, {"x": x}, {"x": x, "label": label * np.nan}):
            memory = {name: np.array(value) for name, value in wrong.items()}
            assert refused(lambda: ppvae.fit(made[0], wrong)) == refused(lambda: ppvae.fit(made[0], memory))  # noqa: B023


def test_one_row_and_masked_arrays_and_no_data(on_disk):
    Rows.enter(vae("normal"), on_disk(REAL[:1]), None, None, 0.0)  # one row is not constant
    masked = np.ma.masked_array(REAL, ~SEEN)
    made = [vae("normal"), vae("normal")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ppvae.Caution)
        ppvae.fit(made[0], masked, SEEN[:, 1], **STEPS)
        ppvae.fit(made[1], masked, on_disk(SEEN[:, 1]), **STEPS)
    assert same(*made)
    words = refused(lambda: ppvae.fit(made[0], {"x": None}, {"x": on_disk(SEEN)}))
    assert words == refused(lambda: ppvae.fit(made[0], {"x": None}, {"x": SEEN}))


def test_of_redrawn_rows_only_those_looked_at_are_kept(on_disk):
    rows = Rows.enter(vae(), on_disk(GREY), None, torch.bernoulli, 0.2)
    x = rows.table.rows(rows.aside).values["x"]
    assert torch.equal(x, rows.table.rows(rows.aside).values["x"]) and set(x.unique().tolist()) == {0.0, 1.0}
    with pytest.raises(ppvae.Problem, match="not observed"):
        rows.table.rows(rows.train[-1:])


class Story(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(D))


def several(net, x=None, y=None, w=None, mask=True, mask_w=True, *, size=1):
    """y ~ a vector of three, w ~ one number: events of a row, beside x."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        pyro.sample("y", dist.Normal(torch.zeros(1, 3), 1.0).to_event(1), obs=y)
        pyro.sample("w", dist.Normal(torch.zeros(1, 1), 1.0), obs=w)
        with pyro.plate("features", D, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(net.loc, 1.0), obs=x)


def test_batches_are_those_of_the_door_masks_of_whole_events_included(on_disk):
    y, w = rng.normal(size=(N, 3)), rng.normal(size=N).astype("f4")
    y[50:70], w[::7] = np.nan, np.nan
    entries, masks = {"x": HOLES, "y": y, "w": w}, {"x": SEEN, "w": rng.random(N) < 0.9}
    made = ppvae.Pair(several, net=Story())
    torch.manual_seed(3)
    memory = Rows.enter(made, entries, masks, None, 0.2)
    torch.manual_seed(3)
    files = Rows.enter(
        made, {k: on_disk(v) for k, v in entries.items()}, {k: on_disk(v) for k, v in masks.items()}, None, 0.2
    )
    torch.manual_seed(3)
    tables = [*memory.batches(memory.order(), 16), memory.table.rows(memory.aside), memory.table.rows(slice(40, 60))]
    torch.manual_seed(3)
    others = [*files.batches(files.order(), 16), files.table.rows(files.aside), files.table.rows(slice(40, 60))]
    for a, b in zip(tables, others, strict=True):
        assert list(a.values) == list(b.values) and list(a.masks) == list(b.masks) == ["x", "y", "w"]
        assert a.total == b.total == N and a.masks["y"].shape == (len(a), 1)
        for ours, theirs in ((a.values, b.values), (a.masks, b.masks)):
            assert all(torch.equal(ours[k].nan_to_num(99.0), theirs[k].nan_to_num(99.0)) for k in ours)
            assert all(ours[k].dtype == theirs[k].dtype for k in ours)
    assert memory.sums() == files.sums()


# --- a fit that is interrupted, or goes wrong -------------------------------------------------------------


@pytest.mark.parametrize("redraw", [None, torch.bernoulli], ids=["as stored", "redrawn"])
@pytest.mark.parametrize("begun", ["in files", "in memory"])
def test_an_interrupted_fit_goes_on_from_files_bit_for_bit(on_disk, tmp_path, monkeypatch, begun, redraw):
    x = GREY if redraw else BINARY
    options = {**STEPS, "epochs": 4, "held_out": 0.2, "redraw": redraw}
    whole, cut, again = vae(), vae(), vae(seed=5)
    undisturbed = ppvae.fit(whole, x, **options)
    calls, batches = 0, Rows.batches

    def interrupted(*arguments):
        nonlocal calls
        for batch in batches(*arguments):
            calls += 1
            if calls == 2 * 6 + 3:  # in the third epoch
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ppvae.fit(cut, x if begun == "in memory" else on_disk(x), checkpoint=tmp_path / "c", **options)
    assert not readers()
    resumed = ppvae.fit(again, on_disk(x), checkpoint=tmp_path / "c", **options)
    assert numbers(resumed) == numbers(undisturbed) and same(whole, again)
    other = x.copy()
    other[-1, -1] = 1 - other[-1, -1]
    assert "another fit" in refused(lambda: ppvae.fit(again, on_disk(other), checkpoint=tmp_path / "c", **options))


def test_the_place_where_a_fit_went_wrong_is_the_row_of_the_file(on_disk):
    x = REAL.copy()
    x[77] *= 1e200
    words = refused(lambda: ppvae.fit(vae("normal"), on_disk(x), **STEPS))
    assert "in row 77" in words and words == refused(lambda: ppvae.fit(vae("normal"), x, **STEPS))


# --- the door's words ------------------------------------------------------------------------------------


def put(x, *cells):
    x = x.copy()
    for row, column, value in cells:
        x[row, column] = value
    return x


BAD = {
    "infinities": (put(REAL, (31, 2, np.inf), (33, 1, -np.inf), (90, 4, np.inf)), None, {}),
    "outside the support": (put(BINARY, (47, 3, 2), (102, 5, 7)), None, {}),
    "grey pixels": (GREY, None, {}),
    "redrawn to grey pixels": (GREY, None, {"redraw": lambda p: p}),
    "no probabilities": (REAL, None, {"redraw": torch.bernoulli}),
    "a column that is never observed": (put(REAL, (slice(None), 2, np.nan)), None, {}),
    "a mask that hides columns": (REAL, np.arange(D) % 3 == np.zeros((N, 1)), {}),
    "a constant column": (put(REAL, (slice(None), 4, 1.5)), None, {}),
    "one column too few": (REAL[:, 1:], None, {}),
    "three dims": (REAL.reshape(N, 2, 3), None, {}),
    "one dim": (REAL[:, 0], None, {}),
    "complex numbers": (REAL.astype(complex), None, {}),
    "words": (REAL.astype("<U8"), None, {}),
    "a mask of other rows": (REAL, SEEN[:-3], {}),
    "a mask of more rows": (REAL, SEEN.repeat(2, 0), {}),
    "a mask of other columns": (REAL, SEEN[:, :4], {}),
    "a mask of weights": (REAL, SEEN * 0.5, {}),
    "a misspelt entry": ({"x": REAL, "lable": REAL[:, 0]}, None, {}),
    "a mask of nothing": ({"x": REAL}, {"y": SEEN}, {}),
    "too many held out": (REAL, None, {"held_out": 0.999}),
    "too large a batch": (REAL, None, {"batch_size": 1000}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused_is_refused_in_the_same_words(on_disk, case):
    x, mask, options = BAD[case]

    def disk(given):
        return {k: on_disk(v) for k, v in given.items()} if isinstance(given, dict) else on_disk(given)

    made = vae(
        "normal" if np.ndim(x) and "redraw" not in options and x is not GREY and x.dtype != "u1" else "bernoulli"
    )
    options = {"epochs": 1, **options}
    words = refused(lambda: ppvae.fit(made, x, mask, **options))
    assert words == refused(lambda: ppvae.fit(made, disk(x), mask if mask is None else disk(mask), **options))


def test_an_event_observed_in_part_is_named_by_its_row_in_the_file(on_disk):
    y = rng.normal(size=(N, 3))
    y[64, 1] = np.nan
    made, given = ppvae.Pair(several, net=Story()), {"x": on_disk(REAL), "y": on_disk(y)}
    assert "row 64 of y is observed in part" in refused(lambda: Rows.enter(made, given, None, None, 0.0))


def test_rows_of_which_nothing_is_observed_are_named(on_disk):
    x = put(REAL, *((n, slice(None), np.nan) for n in (3, 30, 31, 60, 80, 101)))
    for given in (x, on_disk(x)):
        with pytest.warns(ppvae.Caution, match="rows 3, 30, 31, 60, 80 and 1 more are not observed at all"):
            Rows.enter(vae("normal"), given, None, None, 0.0)


# --- the thread, the file and the memory -----------------------------------------------------------------


def test_batches_are_read_ahead_by_another_thread_and_not_too_far(on_disk, monkeypatch):
    rows, read, take = Rows.enter(vae(), on_disk(BINARY), None, None, 0.0), [], mapped.Mapped.take

    def spy(self, index, pinned):
        read.append(threading.current_thread())
        return take(self, index, pinned)

    monkeypatch.setattr(mapped.Mapped, "take", spy)
    batches = rows.batches(rows.order(), 4)
    for done in range(10):
        next(batches)
        assert len(read) <= done + 2 + streaming.AHEAD
    assert len(readers()) == 1 and set(read) == set(readers())
    batches.close()
    assert not readers() and len(read) < 20


def test_what_nobody_waits_for_is_not_read(on_disk, monkeypatch):
    rows, read, take = Rows.enter(vae(), on_disk(BINARY), None, None, 0.0), [], mapped.Mapped.take

    def slow(*arguments, **named):
        read.append(time.sleep(0.1))
        return take(*arguments, **named)

    monkeypatch.setattr(mapped.Mapped, "take", slow)
    batches = rows.batches(rows.order(), 4)
    next(batches)
    batches.close()
    assert len(read) < 1 + streaming.AHEAD and not readers()


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_the_thread_ends_with_a_loop_that_is_left_early(on_disk, error):
    calls = 0

    def objective(pair, table):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise error
        return ppvae.elbo()(pair, table)

    with pytest.raises(error):
        ppvae.fit(vae(), on_disk(BINARY), objective=objective, epochs=2, batch_size=4, compile="off")
    assert not readers()


def test_an_error_in_the_reading_thread_is_a_problem_here(on_disk, monkeypatch):
    gather, calls = mapped.gather, 0

    def fails(*arguments):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise OSError(5, "Input/output error")
        return gather(*arguments)

    monkeypatch.setattr(mapped, "gather", fails)
    made = vae()
    assert "Input/output error" in refused(lambda: ppvae.fit(made, on_disk(BINARY), **STEPS))
    assert same(made, vae()) and not readers()  # the parameters from before that epoch


@pytest.mark.parametrize(("what", "words"), [("cut", "holds 200 bytes"), ("removed", "is gone")])
def test_a_file_that_changes_under_way_is_noticed(on_disk, what, words):
    x = on_disk(BINARY)

    def lose(*_):
        if what == "removed":
            x.filename.unlink(missing_ok=True)
        else:
            with open(x.filename, "r+b") as file:
                file.truncate(200)

    made = vae()
    rows = Rows.enter(made, x, None, None, 0.0)
    batches = rows.batches(rows.order(), 4)
    next(batches)
    lose()
    assert words in refused(lambda: list(batches)) and not readers()
    assert words in refused(lambda: ppvae.fit(made, x, epochs=1))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_file_is_not_copied_into_memory(tmp_path, monkeypatch):
    """With less memory to take than the file needs."""
    import resource

    monkeypatch.setattr(mapped, "PART", 2**18)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (2**18, 64))  # 128 MiB
    x[::2] = 1.0
    x.flush()
    x, made = np.load(tmp_path / "x.npy", mmap_mode="r"), pair("vae", features=64, hidden=(4,))
    options = {"epochs": 1, "batch_size": 4096, "held_out": 0.1, "compile": "off"}
    ppvae.fit(made, x[: 2**14], **options)  # whatever is imported or kept by then is
    taken = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken + 80 * 2**20, before[1]))
    try:
        ppvae.fit(made, x, **options)
        with pytest.raises((MemoryError, RuntimeError)):
            np.array(x)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


# --- a GPU, and the command line -------------------------------------------------------------------------

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@gpu
def test_rows_in_memory_are_on_the_gpu_and_no_batch_waits_for_it():
    rows = Rows.enter(vae().cuda(), GREY, None, torch.bernoulli, 0.2)
    assert rows.train.is_cuda and rows.stored.values["x"].is_cuda
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(len(batch) for batch in rows.batches(rows.order(), 16)) == len(rows.train)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("case", FITS)
def test_a_fit_from_files_is_the_fit_from_memory_on_the_gpu(on_disk, case):
    if case != "redrawn by more than one number an entry":  # which draws on the CPU
        test_a_fit_from_files_is_the_fit_from_memory(on_disk, case)


def test_the_command_line_takes_an_array(ppvae_):
    words = ("--latents", 2, "--hidden", "8", "--epochs", 2, "--batch-size", 16, "--particles", 20)
    np.save("binary.npy", BINARY)
    code, out, err = ppvae_("fit", "vae", "--data", "binary.npy", *words)
    assert code == 0 and "its last 20 rows are test" in out, err
    by_hand = pair("vae", features=D, hidden=(8,))
    ppvae.fit(by_hand, BINARY[:-20], epochs=2, batch_size=16)
    assert same(ppvae.load("vae-binary"), by_hand)
    code, out, err = ppvae_("evaluate", "vae-binary", "--rows", 0, "--particles", 20, "--hide", 0.2)
    assert code == 0 and "on 20 of 20 test rows" in out, err
    np.save("images.npy", REAL.reshape(N, 2, 3))
    assert ppvae_("fit", "vae", "--data", "images.npy", *words)[0] == 0
    np.save("words.npy", REAL.astype("<U8"))
    np.save("line.npy", REAL[:, 0])
    np.save("few.npy", REAL[:4])
    np.save("columns.npy", np.asfortranarray(REAL))
    np.save("objects.npy", np.array([{}, {}]))
    open("text.npy", "w").write("a,b\n1,2\n")
    np.savez("several", REAL)
    open("several.npy", "wb").write(open("several.npz", "rb").read())
    for name in ("words", "line", "few", "columns", "objects", "text", "several", "none"):
        code, _, err = ppvae_("fit", "vae", "--data", f"{name}.npy", *words)
        assert code == 2 and f"{name}.npy" in err and "Traceback" not in err, name
