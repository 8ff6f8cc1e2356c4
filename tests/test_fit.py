"""Fitting: it finds the known optimum, repeats itself bit for bit, is interrupted and goes on, and says what is wrong."""

import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from examples import data, linear_gaussian, pair

import ppvae
from ppvae.fitting.passes import Passes
from ppvae.fitting.processes import ALONE
from ppvae.fitting.update import Update


def rows(N=400, D=6, K=2, seed=0):
    made, x, _ = linear_gaussian(N=N, D=D, K=K, seed=seed)
    return x


def test_fit_reaches_the_maximum_likelihood_that_em_finds():
    x = rows()
    made = pair("factor_analysis_exact", features=6, latents=2)
    ppvae.fit(made, x, epochs=150, batch_size=400, learning_rate=5e-2)
    best = ppvae.exact.em(x, 2).log_likelihood[-1]
    ours = ppvae.condition(made, x).log_evidence().mean()
    assert best - 0.01 < ours < best + 1e-6  # nats per row


def test_fit_with_missing_entries_reaches_what_em_finds():
    x = rows()
    mask = torch.rand(x.shape) > 0.3
    mask[:, 0] = True
    made = pair("factor_analysis_exact", features=6, latents=2)
    ppvae.fit(made, x, mask, epochs=200, batch_size=400, learning_rate=5e-2)
    best = ppvae.exact.em(x, 2, mask).log_likelihood[-1]
    assert best - 0.01 < ppvae.condition(made, x, mask).log_evidence().mean() < best + 1e-6


@pytest.mark.parametrize("form", ["tensor", "array", "frame", "mask", "mapping"])
def test_the_same_data_in_any_form_give_the_same_fit(form):
    import pandas as pd

    x = rows(N=50)
    mask = torch.rand(x.shape) > 0.2
    mask[:, 0] = True
    holes = torch.where(mask, x, torch.nan)
    given = {
        "tensor": (holes, None),
        "array": (holes.numpy(), None),
        "frame": (pd.DataFrame(holes.numpy()), None),
        "mask": (x, mask.numpy()),
        "mapping": ({"x": x}, {"x": mask}),
    }[form]
    made = pair("factor_analysis_exact", features=6, latents=2)
    bounds = [r["bound"] for r in ppvae.fit(made, *given, epochs=3, batch_size=16).history]
    again = pair("factor_analysis_exact", features=6, latents=2)
    assert bounds == [r["bound"] for r in ppvae.fit(again, x, mask, epochs=3, batch_size=16).history]


SCRIPT = """
import torch, ppvae
torch.set_num_threads(1)
torch.manual_seed(3)
pair = ppvae.make("vae", features=6, latents=2, hidden=(8,))
x = (torch.randn(50, 6) > 0).float()
result = ppvae.fit(pair, x, epochs=3, batch_size=16, seed=7)
torch.manual_seed(5)
print([r["bound"].hex() for r in result.history], ppvae.condition(pair, x).log_evidence(10).sum().item().hex())
"""


def test_the_same_seed_gives_the_same_bits_in_one_process_and_in_two():
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    torch.set_default_dtype(torch.float32)
    made = [None, None]
    for i in range(2):
        torch.manual_seed(3)
        one = ppvae.make("vae", features=6, latents=2, hidden=(8,))
        x = (torch.randn(50, 6) > 0).float()
        torch.rand(i + 1)  # the global generator's state is not what counts
        result = ppvae.fit(one, x, epochs=3, batch_size=16, seed=7)
        torch.manual_seed(5)
        made[i] = (
            f"{[r['bound'].hex() for r in result.history]} {ppvae.condition(one, x).log_evidence(10).sum().item().hex()}\n"
        )
    assert runs[0] == runs[1] == made[0] == made[1]


def test_fit_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    ppvae.fit(pair("vae"), data(pair("vae"))[0]["x"], epochs=1)
    torch.set_rng_state(before)
    state = torch.get_rng_state()
    made = pair("vae")
    x = data(made)[0]["x"]
    state = torch.get_rng_state()
    ppvae.fit(made, x, epochs=1)
    assert torch.equal(state, torch.get_rng_state())


class Interrupted(Exception):
    pass


def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path):
    x = rows(N=60).gt(0).to(torch.get_default_dtype())
    whole = pair("vae", features=6)
    undisturbed = ppvae.fit(whole, x, epochs=6, batch_size=16, held_out=0.2)

    calls = 0

    def bernoulli(p):  # interrupts in the middle of the fourth epoch
        nonlocal calls
        calls += 1
        if calls == 1 + 3 * 3 + 2:
            raise Interrupted
        return p

    cut = pair("vae", features=6)
    with pytest.raises(Interrupted):
        ppvae.fit(cut, x, epochs=6, batch_size=16, held_out=0.2, checkpoint=tmp_path / "run", redraw=bernoulli)
    again = pair("vae", features=6, seed=9)
    resumed = ppvae.fit(
        again, x, epochs=6, batch_size=16, held_out=0.2, checkpoint=tmp_path / "run", redraw=lambda p: p
    )
    assert [r["bound"] for r in resumed.history] == [r["bound"] for r in undisturbed.history]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ppvae.Problem, match="another fit"):
        ppvae.fit(again, x, epochs=7, batch_size=16, held_out=0.2, checkpoint=tmp_path / "run")


def test_ctrl_c_keeps_the_parameters_of_the_last_whole_epoch():
    x = rows(N=60).gt(0).to(torch.get_default_dtype())
    calls = 0

    def interrupt(p):
        nonlocal calls
        calls += 1
        if calls == 1 + 4 + 2:  # the door, an epoch of four batches, and in the middle of the next
            raise KeyboardInterrupt
        return p

    cut = pair("vae", features=6)
    with pytest.raises(KeyboardInterrupt):
        ppvae.fit(cut, x, epochs=5, batch_size=16, schedule="constant", redraw=interrupt)
    one = pair("vae", features=6)
    ppvae.fit(one, x, epochs=1, batch_size=16, schedule="constant")
    assert all(torch.equal(a, b) for a, b in zip(cut.state_dict().values(), one.state_dict().values(), strict=True))


def test_early_stopping_keeps_the_best_parameters_on_held_out_rows():
    x = rows(N=40)
    made = pair("vae", features=6, likelihood="normal", hidden=(64,))
    result = ppvae.fit(
        made, x, epochs=300, batch_size=20, learning_rate=2e-2, held_out=0.25, patience=10, schedule="constant"
    )
    bounds = [r["held_out"] for r in result.history]
    assert result.stopped == "held-out bound" and len(bounds) < 300
    assert bounds.index(max(bounds)) == len(bounds) - 11
    assert max(bounds) > bounds[-1]


def test_the_learning_rate_falls_along_a_cosine():
    made = pair("vae")
    x = data(made, rows=40)[0]["x"]
    rates = [r["learning_rate"] for r in ppvae.fit(made, x, epochs=4, batch_size=40, learning_rate=0.1).history]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 4)) for e in range(4)])
    rates = [r["learning_rate"] for r in ppvae.fit(made, x, epochs=2, learning_rate=0.1, schedule="constant").history]
    assert rates == [0.1, 0.1]


def test_clipping_is_of_all_parameters_together(monkeypatch):
    norms = []
    whole = torch.nn.utils.clip_grad_norm_

    def spy(parameters, clip):
        parameters = list(parameters)
        result = whole(parameters, clip)
        norms.append(torch.stack([p.grad.norm() for p in parameters]).norm())
        return result

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    made = pair("factor_analysis_exact", features=6)
    ppvae.fit(made, 100 * rows(N=64), epochs=2, clip=0.5)
    assert norms and all(norm <= 0.5 + 1e-9 for norm in norms) and max(norms) > 0.49


def test_redraw_makes_a_fresh_observation_each_time():
    grey = torch.full((200, 6), 0.5)
    seen = []

    def redraw(p):
        seen.append(torch.bernoulli(p))
        return seen[-1]

    ppvae.fit(pair("vae", features=6), grey, epochs=2, batch_size=200, redraw=redraw)
    assert len(seen) == 3 and not torch.equal(seen[1], seen[2])
    assert all(set(s.unique().tolist()) == {0.0, 1.0} for s in seen)


def test_history_says_which_kl_is_closed():
    for name, sites in (("vae", ("z",)), ("two_layer", ("z2",)), ("factor_analysis_exact", ())):
        made = pair(name)
        record = ppvae.fit(made, data(made)[0], epochs=1).history[0]
        assert record["analytic_kl"] == sites and record["seconds"] > 0 and math.isfinite(record["bound"])


class Weighted(torch.nn.Module):
    """An objective with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))

    def forward(self, pair, x, mask=None):
        return ppvae.elbo()(pair, x, mask) - (self.offset - 1.0) ** 2


def test_an_objective_may_be_a_module_and_is_trained_too():
    objective = Weighted()
    made = pair("vae")
    result = ppvae.fit(made, data(made)[0], objective=objective, epochs=20, learning_rate=0.1, schedule="constant")
    assert objective.offset > 0.5 and result.step == "staged"


class Norm(torch.nn.Module):
    """An encoder with running buffers."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(9, dtype=torch.get_default_dtype())
        self.net = ppvae.nn.encoder("zero_fill", 9, 2, (8,))

    def forward(self, x, mask=True):
        return self.net(self.norm(x), mask)


def test_buffers_are_as_after_eager_training_and_untouched_by_staging():
    import ppvae.guides.vae as guide
    from ppvae.models.vae import Decoder, model

    ends = []
    for compile in ("auto", "off"):
        torch.manual_seed(0)
        made = ppvae.Pair(model, guide.guide, decoder=Decoder(9, 2, (8,)), encoder=Norm())
        x = data(pair("vae"), rows=40)[0]["x"]
        result = ppvae.fit(made, x, epochs=3, batch_size=20, compile=compile)
        ends.append(made.encoder.norm)
        assert made.encoder.norm.num_batches_tracked == 6, result.step
    assert torch.equal(ends[0].running_mean, ends[1].running_mean)


def branching(encoder, x, mask=True):
    import pyro

    with pyro.plate("data", len(x), dim=-2):
        q = encoder(x)
        if x.sum() > -1e9:  # looks at the values: cannot be staged
            pyro.sample("z", q)


def test_a_pair_that_cannot_be_staged_falls_back_and_says_why(caplog):
    from ppvae.models.vae import Decoder, model

    made = ppvae.Pair(model, branching, decoder=Decoder(9, 2, (8,)), encoder=ppvae.nn.encoder("zero_fill", 9, 2, (8,)))
    with caplog.at_level("INFO", logger="ppvae"):
        result = ppvae.fit(made, data(pair("vae"))[0]["x"], epochs=2)
    assert result.step.startswith("eager: ") and "not staged" in caplog.text


def test_a_number_frozen_by_staging_is_found_out():
    """A Python float that changes between steps would stand still in the graph, in silence."""
    beta = iter(np.linspace(0.1, 1.0, 100))

    def annealed(pair, x, mask=None):
        terms = ppvae.elbo().terms(pair, x, mask)
        return terms.likelihood - float(next(beta)) * sum(terms.kl.values())

    made = pair("vae")
    result = ppvae.fit(made, data(made, rows=40)[0]["x"], objective=annealed, epochs=2, batch_size=20)
    assert "differs from the eager one" in result.step


def test_a_number_that_begins_to_change_late_is_found_out_too():
    """It changes in the 5th of 16 steps; `redraw` sees each batch and counts."""
    batches = []

    def late(pair, x, mask=None):
        return ppvae.elbo()(pair, x, mask) * (1.0 if len(batches) < 6 else 2.0)

    def redraw(x):
        batches.append(len(x))
        return x

    made = pair("vae")
    result = ppvae.fit(made, data(made, rows=40)[0]["x"], objective=late, epochs=8, batch_size=20, redraw=redraw)
    assert "differs from the eager one" in result.step


def test_a_bound_that_is_not_finite_is_refused_and_the_parameters_are_kept():
    made = pair("factor_analysis_exact", features=6)
    x = rows(N=64)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    with pytest.raises(ppvae.Problem, match="the bound became|singular"):
        ppvae.fit(made, x, epochs=3, learning_rate=1e6, batch_size=8)
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())


GOOD = {"epochs": 1}
BAD = {
    "an infinity": (
        lambda x: x.index_put((torch.tensor([3]), torch.tensor([1])), torch.tensor(torch.inf)),
        {},
        "row 3, column 1",
    ),
    "a column never observed": (
        lambda x: x.index_fill(1, torch.tensor([2]), torch.nan),
        {},
        "column 2 is never",
    ),
    "a constant column": (lambda x: x.index_fill(1, torch.tensor([4]), 1.5), {}, "column 4 is constant"),
    "one column too few": (lambda x: x[:, :5], {}, "5 columns"),
    "three dims": (lambda x: x[None], {}, "rows first"),
    "a batch larger than the data": (lambda x: x, {"batch_size": 1000}, "batch_size is 1000"),
    "no such device": (lambda x: x, {"device": "abacus"}, "abacus"),
    "patience without rows held out": (lambda x: x, {"patience": 3}, "held_out=0.1"),
    "a negative learning rate": (lambda x: x, {"learning_rate": -1.0}, "learning_rate"),
    "an unknown schedule": (lambda x: x, {"schedule": "linear"}, "cosine"),
    "a mask of another shape": (lambda x: x, {"mask": torch.ones(3, 3)}, "shape"),
    "a mask of weights": (lambda x: x, {"mask": torch.full((64, 6), 0.5)}, "0 and 1"),
    "a name that nothing takes": (lambda x: {"x": x, "colour": x}, {}, "colour"),
    "words": (lambda x: np.array([["a"] * 6] * 64), {}, "numbers are needed"),
    "no rows": (lambda x: x[:0], {}, "at least one row"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_meets_a_message(what):
    change, options, says = BAD[what]
    with pytest.raises(ppvae.Problem, match=says) as met:
        ppvae.fit(pair("factor_analysis_exact", features=6), change(rows(N=64)), **{**GOOD, **options})
    assert met.value.cause and met.value.remedy and "Try:" in str(met.value)


def test_rows_with_nothing_observed_are_pointed_out_and_change_only_the_mean():
    x = rows(N=64)
    x[5] = torch.nan
    with pytest.warns(ppvae.Caution, match="row 5 is"):
        ppvae.fit(pair("factor_analysis_exact", features=6), x, epochs=1)


def test_words_in_a_frame_are_named_by_column():
    import pandas as pd

    frame = pd.DataFrame(rows(N=64).numpy(), columns=list("abcdef"))
    frame["c"] = "many"
    with pytest.raises(ppvae.Problem, match="c.*many"):
        ppvae.fit(pair("factor_analysis_exact", features=6), frame)


def test_grey_pixels_are_no_bits():
    with pytest.raises(ppvae.Problem, match="Bernoulli") as met:
        ppvae.fit(pair("vae", features=6), torch.rand(20, 6), epochs=1)
    assert "binarize" in met.value.remedy


def test_ppca_needs_fewer_latents_than_features():
    with pytest.raises(ppvae.Problem, match="6 latents of 6 features"):
        ppvae.make("factor_analysis_exact", features=6, latents=6, tied=True)


def test_slips_of_the_hand_meet_a_message():
    import pyro
    import pyro.distributions as dist

    made, x = pair("factor_analysis_exact", features=6), rows(N=64)
    with pytest.raises(ppvae.Problem, match="'elbo'"):
        ppvae.fit(made, x, objective="elbo")
    with pytest.raises(ppvae.Problem, match="a Tensor stands"):
        ppvae.fit(x, made)
    with pytest.raises(ppvae.Problem, match="a Fit stands"):
        ppvae.condition(ppvae.fit(made, x, epochs=1), x)
    with pytest.raises(ppvae.Problem, match="the mask of x holds"):
        ppvae.fit(made, x, "x")
    with pytest.raises(ppvae.Problem, match="sparse"):
        ppvae.fit(made, x.to_sparse())

    def forgets(decoder, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2), pyro.plate("features", 6, dim=-1):
            return pyro.sample("x", dist.Normal(decoder.loc, 1.0))

    with pytest.raises(ppvae.Problem, match="no obs="):
        ppvae.elbo()(ppvae.Pair(forgets, decoder=made.decoder), x)


def test_a_masked_array_says_what_is_missing():
    made, x = pair("factor_analysis_exact", features=6), rows(N=64).numpy()
    x[3, 2] = -999
    post = ppvae.condition(made, np.ma.masked_equal(x, -999))
    assert not post.table.masks["x"][3, 2] and post.table.masks["x"].sum() == x.size - 1


def test_the_bound_of_an_epoch_is_the_mean_over_its_rows():
    """With the exact guide and steps too small to matter it is the mean log-evidence, last smaller batch included."""
    x = rows(N=25)
    x[20:] *= 3  # rows that a mean over batches would weigh wrongly
    made = pair("factor_analysis_exact", features=6)
    record = ppvae.fit(made, x, epochs=1, batch_size=10, learning_rate=1e-15).history[0]
    assert abs(record["bound"] - ppvae.condition(made, x).log_evidence().mean()) < 1e-10


def test_early_stopping_goes_back_to_the_parameters_of_the_best_epoch():
    x = rows(N=40)
    options = {"batch_size": 20, "learning_rate": 2e-2, "held_out": 0.25, "schedule": "constant"}
    made, again = (pair("vae", features=6, likelihood="normal", hidden=(64,)) for _ in range(2))
    bounds = [r["held_out"] for r in ppvae.fit(made, x, epochs=300, patience=5, **options).history]
    ppvae.fit(again, x, epochs=bounds.index(max(bounds)) + 1, **options)
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values(), strict=True))


def test_rows_held_out_are_not_trained_on():
    from ppvae.fitting.rows import Rows

    split = Rows.enter(pair("factor_analysis_exact", features=6), rows(N=40), None, None, 0.25)
    assert sorted([*split.train.tolist(), *split.aside.tolist()]) == list(range(40)) and len(split.aside) == 10
    assert sum(len(batch) for batch in split.batches(split.order(), 7)) == 30


@pytest.mark.parametrize("redraw", [None, lambda p: p.round()])
def test_a_checkpoint_of_other_data_or_another_mask_is_refused(tmp_path, redraw):
    x = torch.rand(30, 6)
    mask = torch.rand(30, 6) > 0.3
    mask[:, 0] = True
    options = {"epochs": 1, "batch_size": 30, "checkpoint": tmp_path / "a", "redraw": redraw}
    made = pair("vae", features=6, likelihood="normal")
    if redraw is not None:
        made = pair("vae", features=6)
    ppvae.fit(made, x, mask, **options)
    ppvae.fit(made, x, mask, **options)
    for other, seen in ((x * 0.9, mask), (x, mask.logical_not().index_fill(1, torch.tensor([0]), True))):
        with pytest.raises(ppvae.Problem, match="another fit"):
            ppvae.fit(made, other, seen, **options)


def test_a_batch_that_does_not_fit_into_memory_is_named_and_the_last_epoch_is_kept(monkeypatch):
    made, x = pair("vae"), torch.bernoulli(torch.full((32, 9), 0.3))
    seen, plain = [], Update.__call__

    def lacking(self, batch, done):
        seen.append([p.detach().clone() for p in made.parameters()])
        if len(seen) == 7:  # the third step of the second epoch
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return plain(self, batch, done)

    monkeypatch.setattr(Update, "__call__", lacking)
    with pytest.raises(ppvae.Problem, match=r"a batch of 8 rows does not fit[\s\S]*batch_size=4"):
        ppvae.fit(made, x, epochs=3, batch_size=8)
    assert len(seen) == 7
    assert all(map(torch.equal, made.parameters(), seen[4]))


def test_a_held_out_batch_that_does_not_fit_is_named_too():
    def lacking(*_):
        raise MemoryError

    rows = types.SimpleNamespace(aside=torch.arange(3), table=types.SimpleNamespace(rows=lacking))
    passes = Passes(None, rows, 2, 1, ALONE)
    with pytest.raises(ppvae.Problem, match="a batch of 2 rows does not fit"):
        passes.held_out(ppvae.elbo(), pair("vae"), 0)
