"""`ppvae bench`: its arithmetic on a clock of our own, that all variants do the same work, and that no case is broken."""

import gc
import json
import sys
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from torch.utils.flop_counter import FlopCounterMode

import ppvae
from ppvae import bench
from ppvae.bench import (
    by_hand,
    estimators,
    evidence,
    first_step,
    harness,
    imputation,
    machine,
    memory,
    ours,
    run,
    stock_pyro,
)
from ppvae.bench.harness import Ready, Unavailable, Variant

CPU = torch.device("cpu")


class Clock:
    """A clock that stands still but for what variants add to it."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def variant(self, name, milliseconds, share=1.0):
        """Its k-th timed call takes milliseconds[k]; those that are not timed a hundred times as long."""
        taken = [100.0] * (2 * harness.WARM_UP) + [t for ms in milliseconds for t in (100.0, ms)]
        left = iter(taken)

        def call():
            self.calls.append(name)
            self.now += next(left) / 1e3

        return Ready(call, share, 7.0)


# --- arithmetic ---------------------------------------------------------------------------------------


def test_the_ratio_is_the_median_of_paired_ratios():
    """Not the ratio of medians, which is 1 here."""
    assert harness.paired([1.0, 2.0, 30.0], [2.0, 1.0, 10.0]) == (2.0, 1.25, 2.5)
    assert harness.spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)


def test_warm_up_and_the_call_before_a_timed_one_do_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    variants = {"hand": clock.variant("hand", [2, 4, 6]), "other": clock.variant("other", [6, 4, 3], share=2)}
    found = harness.compare(variants, "hand", 3, CPU)
    assert found["hand"]["ms"] == pytest.approx(4) and found["hand"]["ratio"] == 1 and found["hand"]["peak_MiB"] == 7
    assert found["other"]["ms"] == pytest.approx(2)  # a call of two steps
    assert found["other"]["ratio"] == pytest.approx(0.5)  # of 1.5, 0.5 and 0.25
    assert (found["other"]["ratio_low"], found["other"]["ratio_high"]) == pytest.approx((0.375, 1.0))
    assert found["hand"]["ms_p20"] == pytest.approx(2.8)


def test_the_order_is_random_seeded_and_doubled(monkeypatch):
    orders = []
    for seed in (0, 0, 1):
        clock = Clock(monkeypatch)
        harness.times({name: clock.variant(name, [1] * 8) for name in "abcd"}, 8, CPU, seed)
        assert clock.calls[::2] == clock.calls[1::2]  # each timed call follows one of the same variant
        rounds = [tuple(clock.calls[i : i + 8 : 2]) for i in range(0, len(clock.calls), 8)]
        assert all(set(round) == set("abcd") for round in rounds) and len(set(rounds)) > 3
        orders.append(rounds)
    assert orders[0] == orders[1] != orders[2]


def test_nothing_is_collected_while_a_variant_runs():
    seen = []

    def broken():
        seen.append(gc.isenabled())
        if len(seen) == 9:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        harness.times({"broken": Ready(broken, 1.0, None)}, 5, CPU)
    assert seen == [False] * 9 and gc.isenabled() and gc.get_freeze_count() == 0


def test_memory_is_what_is_held_at_the_peak_of_a_call():
    """A mebibyte that is kept, three that a call adds for a while, and sixteen that only building took."""

    def build():
        torch.empty(16 * 2**20, dtype=torch.uint8)
        kept = torch.empty(2**20, dtype=torch.uint8)

        def call():
            torch.empty(2 * 2**20, dtype=torch.uint8)
            return torch.empty(3 * 2**20, dtype=torch.uint8), kept

        return call

    assert memory.built(build, CPU)[1] == 4 * 2**20
    assert harness.ready(Variant(build, peak=lambda: 2**19), CPU).peak_MiB == 0.5


def test_the_machine_is_named():
    named = machine.machine()
    assert named["processor"] and named["cores"] >= 1 and named["threads"] == 1
    assert named["versions"]["torch"] == torch.__version__ and named["versions"]["pyro-ppl"] == pyro.__version__
    assert "UTC" in named["date"] and machine.version("no-such-package") is None


# --- every variant does the same work -----------------------------------------------------------------


def twins(make, pair, order):
    """A hand-written network with the parameters of a pair: ``order`` names the pair's modules in the twin's order."""
    twin = make()
    given = [p for name in order for p in pair.get_submodule(name).parameters()]
    assert [p.shape for p in twin.parameters()] == [p.shape for p in given]
    with torch.no_grad():
        for mine, its in zip(twin.parameters(), given, strict=True):
            mine.copy_(its)
    return twin


def both(objective, pair, loss, x):
    torch.manual_seed(3)
    mine = objective(pair, x).mean()
    torch.manual_seed(3)
    return float(mine.detach()), -float(loss(x).detach())


@pytest.fixture
def vae():
    pair = ppvae.make("vae", 16, 3, hidden=(8,))
    return pair, twins(lambda: by_hand.connected(16, 8, 3), pair, ["decoder", "encoder"])


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((5, 16), 0.3))


def test_the_step_by_hand_climbs_the_same_bound(vae, x):
    pair, twin = vae
    mine, by_twin = both(ppvae.elbo(), pair, twin.loss, x)
    assert mine == pytest.approx(by_twin, rel=1e-12)
    mine, by_twin = both(ppvae.iw_elbo(5), pair, lambda x: twin.weighted_loss(x, 5), x)
    assert mine == pytest.approx(by_twin, rel=1e-12)


def test_the_other_stories_by_hand_are_the_pairs(x):
    pair = ppvae.make("two_layer", 16, 2, hidden=(7, 6))
    order = ["decoder.net1", "decoder.head1", "decoder.net2", "decoder.head2", "encoder.z1"]
    order += ["encoder.net2", "encoder.head2"]
    twin = twins(lambda: by_hand.TwoLayer(16, 2, (7, 6)), pair, order)
    mine, by_twin = both(ppvae.elbo(), pair, twin.loss, x)
    assert mine == pytest.approx(by_twin, rel=1e-12)
    pair = ppvae.make("conv_vae", 16, 3, hidden=(4, 6))
    twin = twins(lambda: by_hand.convolutional(4, 3, (4, 6)), pair, ["decoder", "encoder"])
    mine, by_twin = both(ppvae.elbo(), pair, twin.loss, x)
    assert mine == pytest.approx(by_twin, rel=1e-12)


@pytest.mark.parametrize("particles", [1, 5])
def test_stock_pyro_climbs_the_same_bound(vae, x, particles):
    """Its loss is the sum over rows; with one particle the KL is by the draw, as in the weighted bound of one."""
    _, twin = vae
    bound = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(3)
    expected = float(twin.weighted_loss(x, particles).detach()) * len(x)
    step = stock_pyro.step(twin, x, bound if particles == 5 else Trace_ELBO())
    before = [p.clone() for p in twin.parameters()]
    torch.manual_seed(3)
    assert step() == pytest.approx(expected, rel=1e-12)
    assert not any(map(torch.equal, before, twin.parameters()))  # all of them move


def test_pythae_climbs_the_same_bound(vae, x):
    """Where both scales are 1: the one is softplus, the other exp(half the log-variance)."""
    peer = pytest.importorskip("ppvae.bench.peer_pythae", exc_type=ImportError)
    _, twin = vae
    model = peer.vae(16, 8, 3)
    with torch.no_grad():
        twin.encoder[-1].weight[3:] = 0
        twin.encoder[-1].bias[3:] = torch.tensor(1 - 1e-3).expm1().log()  # softplus of it, and 1e-3, is 1
        for theirs, its in ((model.encoder.net, twin.encoder), (model.decoder.net, twin.decoder)):
            for mine, given in zip(theirs.parameters(), its.parameters(), strict=True):
                mine.copy_(given)
        model.encoder.net[-1].bias[3:] = 0
    torch.manual_seed(3)
    expected = float(twin.loss(x).detach())
    torch.manual_seed(3)
    assert float(model({"data": x}).loss.detach()) == pytest.approx(expected, rel=1e-12)
    before = [p.clone() for p in model.parameters()]
    peer.step(model, x)()
    assert not any(map(torch.equal, before, model.parameters()))


@pytest.mark.slow
def test_numpyro_climbs_the_same_bound(x):
    """Its noise is its own: means of 2,000 draws agree to 5 standard errors, of which one is 0.4 % here."""
    peer = pytest.importorskip("ppvae.bench.peer_numpyro", exc_type=ImportError)
    jax, jnp = peer.jax, peer.jnp
    torch.set_default_dtype(torch.float32)
    twin, rows = by_hand.connected(16, 8, 3), jnp.asarray(x.float().numpy())
    made = peer.svi(16, 8, 3)
    state = made.init(jax.random.PRNGKey(0), rows)
    dense = {"encoder": twin.encoder, "decoder": twin.decoder}
    given = {
        f"{name}$params": [
            (jnp.asarray(net[0].weight.detach().numpy().T), jnp.asarray(net[0].bias.detach().numpy())),
            (),
            (jnp.asarray(net[2].weight.detach().numpy().T), jnp.asarray(net[2].bias.detach().numpy())),
        ]
        for name, net in dense.items()
    }
    assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, made.get_params(state))
    keys = jax.random.split(jax.random.PRNGKey(1), 2000)
    theirs = torch.tensor(
        jax.vmap(lambda key: made.loss.loss(key, given, made.model, made.guide, rows))(keys).tolist()
    ) / len(x)
    mine = torch.stack([twin.weighted_loss(x.float(), 1).detach() for _ in range(2000)])
    error = float((theirs.var() / 2000 + mine.var() / 2000).sqrt())
    assert abs(float(theirs.mean() - mine.mean())) < 5 * error and error < 0.005 * float(mine.mean())


# --- the cases ----------------------------------------------------------------------------------------

TIMED = {"ms", "ms_low", "ms_high", "ms_p20", "ratio", "ratio_low", "ratio_high", "peak_MiB"}
SMALL = {
    "training": {"batches": (4,), "features": 16, "hidden": 8, "latents": 2},
    "weighted": {"particles": (3,), "rows": 4, "features": 16, "hidden": 8, "latents": 2},
    "stories": {"rows": 4, "side": 8},
    "evidence": {"draws": 20, "rows": 8, "features": 16, "hidden": 8, "latents": 2},
    "first_step": {"names": ("vae", "bayesian_linear"), "rows": 4, "features": 16, "latents": 2},
    "exact": {"sizes": ((30, 6, 2),)},
    "imputation": {"rows": 200, "looped": 20, "features": 6, "latents": 2},
    "estimators": {"rows": 50, "features": 16, "hidden": 8},
    "data": {"rows": 300, "features": 16},
    "processes": {"steps": {8: 2}},
}


@pytest.fixture
def quick(monkeypatch):
    """Without what compiles for seconds, and without new processes: test_all_variants has them."""
    monkeypatch.delitem(ours.MODES, "ppvae, Inductor")
    monkeypatch.delitem(ours.MODES, "ppvae, Inductor, tf32")
    monkeypatch.setattr(estimators, "COSTS", {"elbo": {"pathwise": ppvae.elbo(), "stl": ppvae.elbo(1, "stl")}})
    monkeypatch.setattr(first_step, "new_process", lambda *_: {"import_s": 1.0})
    monkeypatch.delitem(sys.modules, "ppvae.bench.peer_numpyro", raising=False)
    monkeypatch.setitem(sys.modules, "numpyro", None)


LONG = {"data", "processes"}  # fits, several times over


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in bench.CASES]
)
def test_no_case_is_broken(name, quick):
    torch.set_default_dtype(torch.float32)
    setting = bench.Bench(rounds=2)
    records = [record for found in bench.module(name).case(setting, **SMALL[name]) for record in found]
    for record in records:
        assert all(value is None or value >= 0 for value in record.figures.values())
        assert "ms" not in record.figures or set(record.figures) >= TIMED
    left_out = {text.split(" (")[0] for text in setting.left_out}
    assert left_out <= {"NumPyro", "pythae"}, setting.left_out
    variants = {record.variant for record in records}
    if name == "training":
        assert {"by hand, fused Adam", "ppvae, eager", "ppvae, staged", "Pyro, Trace_ELBO"} <= variants
        assert len(variants) == 8 - ("pythae" in left_out)
        assert all(record.figures["peak_MiB"] > 0 for record in records)


@pytest.mark.slow
def test_all_variants():
    torch.set_default_dtype(torch.float32)
    setting = bench.Bench(rounds=2)
    (records,) = bench.module("training").case(setting, **SMALL["training"])
    variants = {record.variant for record in records}
    assert "ppvae, Inductor" in variants
    assert "NumPyro" in setting.left_out or {"NumPyro, jit", "NumPyro, scan of 20"} <= variants
    found = first_step.new_process(setting, 4, 16, 2, 2)
    assert found["import_s"] > 0 and 0 < found["first_staged_s_low"] <= found["first_staged_s"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_adds_cuda_graphs():
    torch.set_default_dtype(torch.float32)
    setting = bench.Bench(rounds=2, device=torch.device("cuda"))
    (records,) = bench.module("training").case(setting, **SMALL["training"])
    assert "ppvae, staged, CUDA graph" in {record.variant for record in records}


def test_the_same_seed_gives_the_same_rows():
    x = ours.bits(bench.Bench(), 4, 9)
    assert torch.equal(x, ours.bits(bench.Bench(), 4, 9)) and not torch.equal(x, ours.bits(bench.Bench(seed=1), 4, 9))


def test_a_library_that_is_missing_is_left_out_and_said_once():
    said = []
    setting = bench.Bench(say=said.append)
    assert setting.peer("peer_nobody", "nobody") is None and setting.peer("peer_nobody", "nobody") is None
    assert len(said) == 1 and "pip install 'ppvae[bench]'" in said[0] and set(setting.left_out) == {"nobody"}


def test_a_variant_that_cannot_be_built_is_left_out_with_its_reason():
    def impossible():
        raise Unavailable("no compiler")

    setting = bench.Bench(rounds=2)
    found = setting.compare("s", {"a": Variant(lambda: int), "b": Variant(impossible)}, "a", 5)
    assert [record.variant for record in found] == ["a"] and setting.left_out == {"b (s)": "no compiler"}


def test_a_step_that_cannot_be_staged_is_not_timed_as_if_it_were(x):
    def waits(pair, table):
        bound = ppvae.elbo()(pair, table)
        return bound + 0 * bound.sum().item()

    made = ours.modes(bench.Bench(), lambda: ppvae.make("vae", 16, 2, hidden=(8,)), x, waits)
    assert made["ppvae, eager"].build().eager
    with pytest.raises(Unavailable, match="eager"):
        made["ppvae, staged"].build()


def test_what_is_measured_on_few_rows_is_given_for_all(monkeypatch):
    """The share of the work that a call does, and as many rounds as were asked for."""
    seen = {}

    def compare(built, reference, rounds, device, seed):
        assert rounds == 3 and reference in built
        seen.update({name: variant.share for name, variant in built.items()})
        return {}

    monkeypatch.setattr(run, "compare", compare)
    monkeypatch.setitem(evidence.MEASURED, "cpu", 4)
    for name in ("imputation", "evidence"):
        list(bench.module(name).case(bench.Bench(rounds=3), **SMALL[name]))
    assert seen == {
        "ppvae.exact.impute_mean": 1,
        "row by row in NumPy": 0.1,  # 20 of 200 rows
        "decoder's matrix products alone": 0.5,  # 4 of 8
        "log_evidence": 0.5,
    }


def test_the_products_alone_are_those_of_all_draws():
    """3 rows x 7 draws, five at a time: 21 rows of each product, the same numbers as in one piece."""
    weights, x = [torch.randn(4, 2), torch.randn(6, 4)], torch.zeros(3, 6)
    counted = FlopCounterMode(display=False)
    with counted:
        evidence.products(weights, x, draws=7, block=5)()
    assert counted.get_total_flops() == 2 * 21 * (2 * 4 + 4 * 6)


# --- the command --------------------------------------------------------------------------------------


def test_the_command_writes_what_it_shows(ppvae_, monkeypatch):
    for name in ("imputation", "evidence"):
        case = bench.module(name)
        monkeypatch.setattr(case, "case", partial(case.case, **SMALL[name]))
    code, out, err = ppvae_("bench", "imputation", "evidence", "--rounds", 2, "--threads", 1, "--json", "b.json")
    assert code == 0, err
    found = json.load(open("b.json"))
    assert found["finished"] and found["seed"] == 0 and found["left_out"] == {} and found["seconds"] > 0
    assert found["machine"]["threads"] == 1 and found["machine"]["versions"]["numpy"]
    assert {r["case"] for r in found["results"]} == {"imputation", "evidence"}
    looped = next(r for r in found["results"] if r["variant"] == "row by row in NumPy")
    assert looped["largest_difference"] < 1e-10 and looped["peak_MiB"] is None and looped["ratio"] > 0
    assert f"{looped['ratio']:.3g}" in out and "end about" in out
    assert ppvae_("bench", "imputation", "--rounds", 2, "--json", "b.json")[0] == 0  # figures replace figures


def test_an_interruption_leaves_what_was_found(ppvae_, monkeypatch):
    def case(bench):
        yield [run.Record("second", "b", {"ms": 2.0})]
        raise KeyboardInterrupt

    monkeypatch.setattr(imputation, "case", lambda bench: iter([[run.Record("first", "a", {"ms": 1.0})]]))
    monkeypatch.setattr(estimators, "case", case)
    code, out, _ = ppvae_("bench", "imputation", "estimators", "data", "--json", "b.json")
    found = json.load(open("b.json"))
    assert code == 130 and not found["finished"] and "b.json" in out
    assert found["results"] == [
        {"case": "imputation", "setting": "first", "variant": "a", "ms": 1.0},
        {"case": "estimators", "setting": "second", "variant": "b", "ms": 2.0},
    ]


@pytest.mark.parametrize("words", [("trainning",), ("data", "--rounds", 1), ("data", "--threads", 0)])
def test_wrong_words_exit_with_2(ppvae_, words):
    code, _, err = ppvae_("bench", *words)
    assert code == 2 and "Traceback" not in err


def test_no_file_is_lost(ppvae_):
    with open("mine.json", "w") as file:
        file.write('{"my": "own"}')
    code, _, err = ppvae_("bench", "data", "--json", "mine.json")
    assert code == 2 and "mine.json" in err and open("mine.json").read() == '{"my": "own"}'
    assert ppvae_("bench", "data", "--device", "abacus")[0] == 2
