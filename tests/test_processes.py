"""Two processes fit as one does: the same bounds step by step, the same draws, refusals in all of them, one end for all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs_of_processes as jobs
import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, pair
from torch.multiprocessing import ProcessExitedException, spawn

import ppvae
from ppvae.door import enter
from ppvae.fitting.parts import Own, Part
from ppvae.fitting.processes import ALONE, Processes, cores, meeting
from ppvae.fitting.rows import Rows
from ppvae.staging.step import Step
from ppvae.tracing.shared import drawn_together, observed_together
from ppvae.tracing.whole import Share

WAIT = 120  # seconds; a hang is a failure
FITS = (
    "elbo, held out",
    "iw_elbo(5), missing",
    "not at random",
    "dreg",
    "exact",
    "redrawn",
    "redrawn from files",
    "buffers",
    "from files",
    "discrete, enumerated",
    "discrete, score",
    "discrete, vimco",
    "by rejection",
    "global",
    "asleep",
    "two layers, annealed",
    "labels",
)


# --- one spawn for all fits -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def both(folder):
    """What each of two processes found, and what one process found while they ran."""
    torch.set_default_dtype(torch.float64)
    jobs.interrupted(f"{folder}/by one")
    store, told = meeting(2)
    context = spawn(jobs.work, (told, str(folder)), 2, join=False)
    alone = {name: jobs.fitted(*job) for name, job in jobs.fits(folder).items()}
    alone["seeded"] = jobs.fitted(jobs.vae(seed=0), {"x": jobs.rows()[2]})
    alone["whole"] = jobs.resumed(None, seed=0)
    until = time.monotonic() + WAIT
    try:
        while not context.join(1.0):
            assert time.monotonic() < until, "the processes hang"
    except ProcessExitedException as end:  # the last job
        alone["end"] = end
    finally:
        for process in context.processes:
            process.kill()
    del store  # it serves until here
    return [torch.load(f"{folder}/found {rank}", weights_only=False) for rank in (0, 1)], alone


def same_fit(ours, theirs):
    assert len(ours["bounds"]) == len(theirs["bounds"]) >= 16
    for a, b in zip(ours["bounds"], theirs["bounds"], strict=True):
        assert abs(a - b) < 1e-9 * max(1, abs(b))  # rounding, step after step
    for a, b in zip(ours["history"], theirs["history"], strict=True):
        assert a.keys() == b.keys()
        for key in ("bound", "held_out", "likelihood", "learning_rate", "kl_weight"):
            if key in b:
                assert abs(a[key] - b[key]) < 1e-9 * max(1, abs(b[key])), key
        assert a.get("kl", {}) == pytest.approx(b.get("kl", {}), abs=1e-9) and a["analytic_kl"] == b["analytic_kl"]
    for name, value in theirs["state"].items():
        assert torch.allclose(ours["state"][name], value, rtol=1e-7, atol=1e-7), name
    assert ours["stopped"] == theirs["stopped"]


@pytest.mark.parametrize("name", FITS)
def test_two_processes_step_as_one(both, name):
    """Among 25 steps or more five are on a last batch of one row, of which the second process has none."""
    (first, second), alone = both
    same_fit(first["fits"][name], alone[name])
    assert first["fits"][name]["bounds"] == second["fits"][name]["bounds"]
    assert first["fits"][name]["history"] == second["fits"][name]["history"]
    assert all(torch.equal(v, second["fits"][name]["state"][k]) for k, v in first["fits"][name]["state"].items())


def test_every_fit_is_compared(folder):
    assert set(FITS) == set(jobs.fits(folder))


def test_steps_are_staged_in_each_process_but_for_draws_by_rejection(both):
    (first, _), alone = both
    assert first["fits"]["redrawn"]["step"] == "staged, 2 processes" and alone["redrawn"]["step"] == "staged"
    assert "eager" in first["fits"]["by rejection"]["step"] and "by rejection" in first["fits"]["by rejection"]["step"]


def test_early_stopping_is_met_in_the_same_epoch(both):
    (first, second), alone = both
    assert alone["elbo, held out"]["stopped"] == "held-out bound" and len(alone["elbo, held out"]["history"]) < 12
    assert first["fits"]["elbo, held out"]["stopped"] == second["fits"]["elbo, held out"]["stopped"] == "held-out bound"


def test_all_begin_with_the_first_one_s_parameters(both):
    (first, second), alone = both
    same_fit(first["fits"]["seeded"], alone["seeded"])
    assert first["fits"]["seeded"]["bounds"] == second["fits"]["seeded"]["bounds"]


def test_a_checkpoint_of_one_process_is_gone_on_with_by_two_and_the_other_way(both, folder):
    (first, second), alone = both
    whole = alone["whole"]
    last = {**whole, "bounds": whole["bounds"][8:]}  # two epochs were done before
    assert first["resumed"]["history"] == second["resumed"]["history"]
    for resumed in (first["resumed"], jobs.resumed(f"{folder}/by two")):
        assert resumed["bounds"] == pytest.approx(last["bounds"], abs=1e-9) and len(resumed["bounds"]) == 8
        assert [r["held_out"] for r in resumed["history"]] == pytest.approx([r["held_out"] for r in whole["history"]])
        assert all(torch.allclose(v, whole["state"][k], rtol=1e-7, atol=1e-7) for k, v in resumed["state"].items())
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # no draft of a second writer


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "free bits": "free_bits.*couples the rows of a batch",
        "coupled": "the (bound|gradient).* is not the same in 2 processes as in one",
        "dropout": "draws outside of all sites",
        "per batch": "the bound is not the same in 2 processes as in one",
        "batch norm": "'encoder.net.2' normalises over a batch .*SyncBatchNorm is not supported",
        "angles": "'z' is drawn by aten.rand.* cannot share",
        "other data": "do not fit the same.*data is",
        "other options": "do not fit the same.*epochs is 2 and 3",
        "other networks": "the shape of .* is",
        "a file of one": "the number of epochs in the checkpoint is 0 and 4",
        "nan": "the bound became nan in epoch 2",
        "singular": "the bound became nan in epoch 2",
    }.items(),
)
def test_what_is_refused_is_refused_in_all(both, name, words):
    import re

    (first, second), _ = both
    assert re.search(words, first["problems"][name], re.S), first["problems"][name]
    assert first["problems"][name] == second["problems"][name]


def test_when_one_is_killed_the_others_end_with_it(both, folder):
    """The first waits for whoever started it to end it, and says nothing of its own."""
    _, alone = both
    assert alone["end"].signal_name == "SIGKILL" and alone["end"].error_index == 1
    assert not list(folder.glob("survived*"))


# --- draws, without a second process ----------------------------------------------------------------------

N = 7
SHARES = (Share(0, 4, N), Share(4, 3, N), Share(2, 1, N), Share(0, 0, N))
A, B = (
    torch.rand(N, 1, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) * 0.8 + 0.1 for s in (0, 1)
)
AT = A.permute(2, 1, 0).contiguous().permute(2, 1, 0)  # in another order in memory
LAWS = {
    "Normal": lambda i: dist.Normal(A[i], B[i]).to_event(1),
    "a prior": lambda i: dist.Normal(torch.zeros(1, 3), 1.0).to_event(1),
    "LowRank": lambda i: dist.LowRankMultivariateNormal(A[i], B[i].unsqueeze(-1), A[i]),
    "Categorical": lambda i: dist.Categorical(A[i]),
    "OneHotCategorical": lambda i: dist.OneHotCategorical(A[i]),
    "Multinomial": lambda i: dist.Multinomial(5, A[i]),
    "Bernoulli": lambda i: dist.Bernoulli(A[i]).to_event(1),
    "Bernoulli in another order": lambda i: dist.Bernoulli(AT[i]).to_event(1),
    "Laplace": lambda i: dist.Laplace(A[i], B[i]).to_event(1),
    "Uniform": lambda i: dist.Uniform(-A[i], B[i]).to_event(1),
    "Exponential": lambda i: dist.Exponential(A[i]).to_event(1),
    "Cauchy": lambda i: dist.Cauchy(A[i], B[i]).to_event(1),
    "Geometric": lambda i: dist.Geometric(A[i]).to_event(1),
    "a flow": lambda i: dist.LogNormal(A[i], B[i]).to_event(1),
    "Gumbel-softmax": lambda i: dist.RelaxedOneHotCategorical(torch.tensor(0.5), A[i]),
    "a mixture": lambda i: dist.MixtureSameFamily(
        torch.distributions.Categorical(A[i]), torch.distributions.Normal(A[i], B[i])
    ),
    "inflated": lambda i: dist.ZeroInflatedDistribution(dist.Normal(A[i], B[i]), gate=A[i]).to_event(1),
}


class Half(Processes):
    """A process that hears nothing of the others."""

    def add(self, tensor):
        return tensor


def draws(law, index, rows, particles):
    """A global site, one of the rows, and one after it."""
    with pyro.plate_stack("particles", [particles], rightmost_dim=-3), pyro.poutine.trace() as tracer:
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", rows, dim=-2):
            pyro.sample("z", law(index))
            pyro.sample("y", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1))
    return tracer.trace


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("law", LAWS)
def test_own_rows_draw_what_the_whole_batch_draws(law, particles):
    torch.manual_seed(5)
    whole, after = draws(LAWS[law], slice(N), N, particles), torch.rand(1)
    for share in SHARES:
        torch.manual_seed(5)
        with drawn_together(share, lambda t: t):
            own = draws(LAWS[law], share.rows, share.worked_on, particles)
        assert torch.equal(torch.rand(1), after)  # the generators stay in step
        assert torch.equal(own.nodes["w"]["value"], whole.nodes["w"]["value"])
        for site in ("z", "y"):
            value, dim = whole.nodes[site]["value"], whole.nodes[site]["fn"].batch_shape
            theirs = value.narrow(len(dim) - 2, share.start, share.worked_on)
            assert torch.allclose(own.nodes[site]["value"].to(A), theirs.to(A), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "redraw",
    [
        torch.bernoulli,
        lambda x: (torch.rand_like(x) < x).to(x),
        lambda x: x + torch.randn(x.shape),
        lambda x: x.clone().bernoulli_(x),
        lambda x: torch.normal(x, 1.0),
    ],
)
@pytest.mark.parametrize("x", [A[:, 0], AT[:, 0]], ids=["rows first", "columns first"])
def test_own_rows_are_observed_as_those_of_the_whole_batch(redraw, x):
    torch.manual_seed(5)
    whole, after = redraw(x), torch.rand(1)
    for share in SHARES[:2]:
        torch.manual_seed(5)
        with observed_together(share, lambda t: t):
            own = redraw(x[share.rows])
        assert torch.equal(own, whole[share.rows]) and torch.equal(torch.rand(1), after)


@pytest.mark.parametrize(
    ("name", "objective"), [("vae", ppvae.elbo()), ("two_layer", ppvae.iw_elbo(3)), ("bayesian_linear", ppvae.elbo())]
)
def test_a_staged_step_on_own_rows_has_the_eager_step_s_bits(name, objective):
    made = pair(name)
    entries, mask = data(made)
    table, share, parameters = enter(made, entries, {"x": mask}), Share(5, 4, 12), list(made.parameters())
    objective(made, table)  # as `ppvae.check` does: the pair now knows what fills its gaps
    steps = [Step(made, Own(objective, share, Half(1, 3)), parameters, staged) for staged in (True, False)]
    for turn in range(5):
        found = []
        for step in steps:
            torch.manual_seed(turn)
            found.append([step(table.rows(share.rows)), torch.rand(1), *(p.grad.clone() for p in parameters)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert steps[0].how == "staged"


def test_shares_cover_a_batch_and_the_last_one_s_are_not_larger():
    for size in (1, 2, 3, 5):
        counts = {}
        for total in range(1, 14):
            shares = [Processes(rank, size).share(total) for rank in range(size)]
            owned = [row for share in shares for row in range(share.start, share.start + share.count)]
            assert owned == list(range(total)) and sum(share.weight for share in shares) == pytest.approx(1)
            assert all(share.rows.stop <= total for share in shares)
            assert all(
                share.worked_on >= before
                for share, before in zip(shares, counts.get(total - 1, [1] * size), strict=True)
            )
            counts[total] = [share.worked_on for share in shares]


def test_the_parts_of_a_batch_are_its_rows():
    x = torch.rand(30, 6)
    rows = Rows.enter(pair("vae", features=6), x, None, torch.bernoulli, 0.0)
    found = []
    for processes in (ALONE, Half(0, 2), Half(1, 2)):
        torch.manual_seed(3)
        found.append(list(rows.batches(rows.order(), 7, processes)))
    for whole, *parts in zip(*found, strict=True):
        assert all(isinstance(part, Part) and part.total == 30 for part in parts) and not isinstance(whole, Part)
        assert torch.equal(torch.cat([part.values["x"][: part.share.count] for part in parts]), whole.values["x"])


def test_an_environment_that_is_not_torchrun_s_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ppvae.Problem, match="WORLD_SIZE is 2, and RANK, MASTER_ADDR, MASTER_PORT not set"):
        ppvae.fit(jobs.vae(), jobs.rows()[2])


# --- the command line, and torchrun -----------------------------------------------------------------------

FIT = ("fit", "vae", "--hidden", "8", "--latents", "2", "--rows", "5", "--particles", "20", "--output", "a")


def test_more_processes_than_cores_are_refused(ppvae_):
    code, _, err = ppvae_(*FIT, "--processes", cores() + 1)
    assert code == 2 and f"--processes is {cores() + 1} and there" in err


def started(folder, *words):
    """The command in a process of its own, up to its second epoch: it, and those that it started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from ppvae.cli import main; main()", *FIT, *map(str, words)]
    running = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in running.stderr:
        if line.startswith("epoch 2/"):
            break
    tasks = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    workers = [int(pid) for pid in tasks if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    return running, workers


def ended(running):
    out, err = running.communicate(timeout=WAIT)
    return running.returncode, out, "".join(line for line in err.splitlines(True) if not line.startswith("epoch"))


several = pytest.mark.skipif(cores() < 2 or not Path("/proc").is_dir(), reason="needs two cores, and Linux's /proc")


@several
@pytest.mark.slow
def test_when_one_process_is_killed_all_end_with_one_message(tmp_path):
    running, workers = started(tmp_path, "--epochs", 100000, "--processes", 2)
    os.kill(workers[1], signal.SIGKILL)
    code, out, err = ended(running)
    assert code == 2 and err.count("Cannot go on") == 1 and "was ended by SIGKILL" in err and "Traceback" not in err
    assert not Path(f"/proc/{workers[0]}").exists() and (tmp_path / "a" / "last.pt").exists()


@several
@pytest.mark.slow
@pytest.mark.parametrize(("how", "wanted"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_leaves_the_checkpoint_and_one_message(tmp_path, how, wanted):
    running, workers = started(tmp_path, "--epochs", 100000, "--processes", 2)
    running.send_signal(how)
    code, out, err = ended(running)
    assert code == wanted and err.strip() == "stopped; ppvae fit --resume a goes on" and not out
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and not (tmp_path / "a" / "pair.pt").exists()


@several
@pytest.mark.slow
def test_the_command_line_fits_in_two_processes_as_in_one(ppvae_, tmp_path):
    import json

    results = []
    for processes in (1, 2):
        words = ["--epochs", 2, "--processes", processes, "--json", f"{processes}.json", "--force"]
        code, out, err = ppvae_(*FIT, *words)
        assert code == 0 and out.count("saved to a") == 1 and err.count("epoch 2/2") == 1, err
        results.append(json.loads((tmp_path / f"{processes}.json").read_text())["results"])
    one, two = (result["training"]["history"][-1]["bound"] for result in results)
    assert abs(one - two) < 1e-4 and results[1]["training"]["step"] == "staged, 2 processes"


@several
@pytest.mark.slow
def test_a_problem_is_said_once_and_ends_with_2(ppvae_, tmp_path):
    code, out, err = ppvae_(*FIT, "--epochs", 2, "--processes", 2, "--likelihood", "nonsense")
    assert code == 2 and err.count("there is no likelihood 'nonsense'") == 1 and not out


SCRIPT = """
import torch, ppvae
torch.manual_seed(0)
pair = ppvae.make("vae", features=6, latents=2, hidden=(8,))
x = (torch.rand(50, 6) < 0.4).float()
result = ppvae.fit(pair, x, epochs=2, batch_size=16)
if torch.distributed.get_rank() == 0:
    print(result.step)
ppvae.fit(pair, x * 2)
"""


@several
@pytest.mark.slow
def test_torchrun_runs_a_plain_script_and_a_problem_is_said_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode != 0 and done.stdout.strip() == "staged, 2 processes"
    assert done.stderr.count("Problem: x is 2") == 1
