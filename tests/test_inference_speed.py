"""Verbs block by block: staged blocks give the bits of eager ones, what does not fit into memory is halved."""

import copy
import logging
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair

import ppvae
from ppvae import exact
from ppvae.conditioning import memory, posterior, staged
from ppvae.conditioning.averages import summed, weighted_mean
from ppvae.conditioning.blocks import BLOCK_BYTES

NEVER = 10**9
LACK = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 cells, so that few rows make many blocks of one shape; staged the second time."""
    monkeypatch.setitem(BLOCK_BYTES, "cpu", 256 * 8 * 16)
    monkeypatch.setattr(staged, "STAGED_AT", 2)
    return monkeypatch


VERBS = {
    "log_evidence": lambda post: post.log_evidence(24),
    "impute_mean": lambda post: post.impute_mean(24),
    "impute": lambda post: post.impute(3, 14),
    "sample": lambda post: torch.cat([z.flatten() for z in post.sample(5, 11).values()]),
    "diagnostics": lambda post: torch.stack(list(post.diagnostics(24).values())),
}


def answer(post, verb):
    """What a verb answers under a seed, and the next number of the generator; or the problem it meets."""
    torch.manual_seed(3)
    try:
        return VERBS[verb](post), torch.rand(1)
    except ppvae.Problem as problem:
        return str(problem)


def same(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return all(torch.equal(x.nan_to_num(nan=-7.0), y.nan_to_num(nan=-7.0)) for x, y in zip(a, b, strict=True))


def widened(N=12, width=(1.3,)):
    """Factor analysis whose guide is the posterior with wider scales, by a number that is no tensor: (pair, x, mask)."""
    made, x, mask = linear_gaussian(N=N)

    def guide(decoder, x, mask=True):
        q = exact.posterior(decoder.W, decoder.loc, decoder.scale, x, mask)
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.MultivariateNormal(q.loc[:, None], scale_tril=width[0] * q.scale_tril[:, None]))

    return ppvae.Pair(made._functions["model"], guide, decoder=made.decoder), x, mask


@pytest.mark.filterwarnings("ignore::ppvae.Caution")  # weights of a guide that nobody trained
@pytest.mark.parametrize("name", ppvae.names())
def test_staged_blocks_give_the_bits_of_eager_ones(name, small_blocks):
    """Of every pair: none is on a list of those that cannot be staged."""
    made = pair(name)
    x, mask = data(made, rows=5)
    fast, plain = ppvae.condition(made, x, mask), ppvae.condition(made, x, mask)
    small_blocks.setattr(staged, "STAGED_AT", NEVER)
    expected = {verb: answer(plain, verb) for verb in VERBS}
    able = [verb for verb in VERBS if not isinstance(expected[verb], str)]  # with a global latent not all are
    small_blocks.setattr(staged, "STAGED_AT", 2)
    for verb in able * 2:  # the second time by the graphs that are there
        assert same(answer(fast, verb), expected[verb]), verb
    assert fast.staged.graphs and not fast.staged.refused


def test_training_in_between_is_seen(small_blocks):
    made, x, mask = linear_gaussian("factor_analysis_full", N=12)
    post = ppvae.condition(made, x, mask)
    answer(post, "log_evidence")
    assert post.staged.graphs
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    found = answer(post, "log_evidence")
    assert not post.staged.refused
    small_blocks.setattr(staged, "STAGED_AT", NEVER)
    assert same(found, answer(ppvae.condition(made, x, mask), "log_evidence"))


def test_what_depends_on_no_draw_is_computed_once_for_all_blocks_of_some_rows(small_blocks):
    made = pair("vae", likelihood="normal")
    post = ppvae.condition(made, torch.randn(6, 9))
    seen = []
    made.encoder.register_forward_hook(lambda *_: seen.append(1))
    post.log_evidence(64)  # rows one by one, four blocks each
    (graph,) = post.staged.graphs.values()
    products = [str(n.target) for n in graph.drawn.graph.nodes if "mm" in str(n.target)]
    layers = sum(isinstance(m, torch.nn.Linear) for m in made.decoder.modules())
    assert len(products) == layers  # the encoder's are not among them
    plain, calls = graph.fixed, []
    graph.fixed = lambda *given: (calls.append(1), plain(*given))[1]
    answer(post, "log_evidence")  # two blocks a row
    assert len(calls) <= 6


def test_outside_of_a_verb_nothing_is_remembered_of_the_parameters(small_blocks):
    made, x, mask = linear_gaussian("factor_analysis_full", N=12)
    post = ppvae.condition(made, x, mask)
    rows = next(post.row_blocks(4))
    with torch.no_grad(), pyro.validation_enabled(False):
        for change in (1.0, 1.0, 1.0, 1.5, 1.5):
            made.decoder.W.mul_(change)
            for guided in made.parameters():
                guided.mul_(change)
            torch.manual_seed(0)
            found = post.log_weights(rows, 4)
            torch.manual_seed(0)
            assert torch.equal(found, post._weights(rows, 4)[0])
    assert post.staged.graphs and not post.staged.refused


def test_what_changes_and_is_no_tensor_is_not_frozen(small_blocks, caplog):
    caplog.set_level(logging.INFO, "ppvae")
    width = [1.3]
    made, x, mask = widened(width=width)
    post = ppvae.condition(made, x, mask)
    answer(post, "log_evidence")
    assert post.staged.graphs
    width[0] = 0.5
    found = answer(post, "log_evidence")
    assert "is not a tensor" in post.staged.refused and "is not a tensor" in caplog.text
    assert same(found, answer(ppvae.condition(made, x, mask), "log_evidence"))


class Listening(pyro.poutine.messenger.Messenger):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def _pyro_sample(self, msg):
        self.seen.append(msg["name"])


def test_a_handler_around_a_verb_is_heeded(small_blocks):
    made, x, mask = linear_gaussian("factor_analysis_full", N=12)
    post = ppvae.condition(made, x, mask)
    before = answer(post, "log_evidence")
    assert post.staged.graphs
    seen = []
    with Listening(seen):
        assert same(answer(post, "log_evidence"), before)
    assert seen.count("z") == 2 * sum(len(blocks) for _, blocks in post.blocks(24))  # in guide and story


def test_a_block_that_decides_by_values_runs_eagerly_and_says_why(small_blocks, caplog):
    caplog.set_level(logging.INFO, "ppvae")
    story = pair("vae")

    def guide(phi, x, mask=True):
        shift = 1.0 if x.mean() > 0.5 else 0.0
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.full((len(x), 1, 2), shift), 1.0).to_event(1))

    made = ppvae.Pair(story._functions["model"], guide, decoder=story.decoder, phi=torch.nn.Linear(1, 1))
    x, mask = data(story, rows=9)
    post = ppvae.condition(made, x, mask)
    found = answer(post, "log_evidence")
    assert post.staged.refused and "not staged" in caplog.text
    small_blocks.setattr(staged, "STAGED_AT", NEVER)
    assert same(found, answer(ppvae.condition(made, x, mask), "log_evidence"))


def test_a_copy_and_a_pickle_leave_the_graphs_behind(small_blocks):
    made, x, mask = linear_gaussian("factor_analysis_full", N=12)
    post = ppvae.condition(made, x, mask)
    expected = answer(post, "log_evidence")
    for other in (copy.deepcopy(post), pickle.loads(pickle.dumps(post))):
        assert post.staged.graphs and not other.staged.graphs
        assert same(answer(other, "log_evidence"), expected)


# --- memory -----------------------------------------------------------------------------------------------


def lacking(monkeypatch, cells, error=None):
    """No block of more rows × particles than that fits; how large those were that were tried."""
    plain, tried = posterior.run, []

    def run(made, rows, particles=1, **options):
        tried.append(len(rows) * particles)
        if len(rows) * particles > cells:
            raise error or RuntimeError(LACK)
        return plain(made, rows, particles, **options)

    monkeypatch.setattr(posterior, "run", run)
    return tried


@pytest.mark.parametrize("error", [RuntimeError(LACK), MemoryError(), torch.cuda.OutOfMemoryError("out of memory")])
def test_a_block_that_does_not_fit_is_halved_once_and_said(monkeypatch, error):
    made, x, mask = widened(N=20)
    post = ppvae.condition(made, x, mask)
    tried = lacking(monkeypatch, 700, error)
    torch.manual_seed(0)
    with pytest.warns(ppvae.Caution, match="does not fit into memory: it is halved") as said:
        found = post.log_evidence(2000)
    assert len(said) == 1
    monkeypatch.undo()
    ess = post.diagnostics(2000)["ess"]
    decoder = made.decoder
    truth = exact.log_evidence(decoder.W, decoder.loc, decoder.scale, x, mask)
    error = (1 / ess - 1 / 2000).clamp(min=0).sqrt()  # of log-mean-exp, to first order
    assert ((found - truth).abs() < 5 * error + 0.05).all()
    assert max(tried[tried.index(max(t for t in tried if t <= 700)) :]) <= 700  # what was learned is kept


@pytest.mark.parametrize("cells", [1, 3, 7])
def test_halves_are_put_together_in_order(monkeypatch, cells):
    """With the exact guide every weight is log p(x): each row must be in its own place, whatever fits."""
    made, x, mask = linear_gaussian(N=11)
    truth = ppvae.condition(made, x, mask).log_evidence()
    lacking(monkeypatch, cells)
    post = ppvae.condition(made, x, mask)
    with pytest.warns(ppvae.Caution, match="does not fit"):
        rows = next(iter(post.row_blocks(1)))
        weights = post.log_weights(rows, 5)
    assert weights.shape == (5, 11) and (weights - truth).abs().max() < 1e-10
    d = made.decoder
    mean, S = exact.impute_mean(d.W, d.loc, d.scale, x, mask), exact.posterior(d.W, d.loc, d.scale, x, mask).scale_tril
    error = (d.W @ S).square().sum(-1).sqrt() / 10  # of the mean of 100 draws of E[x_d | z]
    with torch.no_grad():
        assert ((post.impute_mean(100) - mean).abs() <= 5 * error.where(~mask, 0.0)).all()
    assert post.impute(3).shape == (3, 11, 8)
    assert torch.equal(post.impute(3)[:, mask], x[mask].expand(3, -1))


def test_one_row_with_one_particle_that_does_not_fit_is_a_problem(monkeypatch):
    made, x, mask = linear_gaussian("factor_analysis_full", N=6)
    lacking(monkeypatch, 0)
    with pytest.warns(ppvae.Caution), pytest.raises(ppvae.Problem, match="one row with one particle does not fit"):
        ppvae.condition(made, x, mask).log_evidence(50)


def test_rows_that_share_a_latent_are_never_torn_apart(monkeypatch):
    made = pair("bayesian_linear")
    x, mask = data(made, rows=6)
    lacking(monkeypatch, 5)
    with pytest.warns(ppvae.Caution), pytest.raises(ppvae.Problem, match="6 rows, which share a global latent"):
        ppvae.condition(made, x, mask).sample(8)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    made, x, mask = linear_gaussian("factor_analysis_full", N=6)
    lacking(monkeypatch, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ppvae.condition(made, x, mask).log_evidence(50)


def test_what_is_free_bounds_a_block_in_powers_of_two(monkeypatch):
    """So that a little more or less that is free changes neither blocks nor draws."""
    home = torch.device("cpu")
    free = {}
    monkeypatch.setattr(memory, "free_bytes", lambda device: free["bytes"])
    for gigabytes, expected in ((64, 4 * 2**20), (0.05, 2**20), (0.06, 2**20), (0.065, 2 * 2**20), (0, 1)):
        free["bytes"] = int(gigabytes * 2**30)
        assert memory.block_bytes(home) == expected
    free["bytes"] = 24 * 2**30
    assert memory.block_bytes(torch.device("cuda")) == 256 * 2**20
    free["bytes"] = None
    assert memory.block_bytes(home) == 4 * 2**20


def test_blocks_follow_what_is_free(monkeypatch):
    made, x, mask = linear_gaussian(N=11)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 32 * 256 * 8 * 4)  # room for four cells
    post = ppvae.condition(made, x, mask)
    assert post.rows_at_once(1) == (4, 1) and post.rows_at_once(10) == (1, 4)
    assert [len(rows) for rows in post.row_blocks(1)] == [4, 4, 3]
    assert post.parts(10) == [4, 4, 2]


@pytest.mark.parametrize("shift", [0.0, -2000.0, 2000.0])
def test_a_mean_of_blocks_is_the_mean_of_all(shift):
    torch.manual_seed(0)
    values, weights = torch.randn(30, 4, 3), 20 * torch.randn(30, 4) + shift
    expected = torch.einsum("pn,pnd->nd", weights.softmax(0), values)
    parts = [summed(v, w) for v, w in zip(values.split(7), weights.split(7), strict=True)]
    assert (weighted_mean(parts) - expected).abs().max() < 1e-13
    assert (torch.cat([w for _, w in parts]).logsumexp(0) - weights.logsumexp(0)).abs().max() < 1e-10
