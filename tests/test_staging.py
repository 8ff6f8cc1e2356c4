"""The staged step: the same bits from less work, in memory that is there."""

import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, pair
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, dropout, log_softmax, softplus

import ppvae
from ppvae.door import enter
from ppvae.fitting import precision
from ppvae.fitting.update import Update
from ppvae.staging import captured
from ppvae.staging.arena import Arena
from ppvae.staging.draws import Draws
from ppvae.staging.graph import stage
from ppvae.staging.step import Step
from ppvae.tracing.traces import log_prob, run

# --- graphs of any operations --------------------------------------------------------------------------

ONE = [
    torch.exp,
    torch.tanh,
    torch.relu,
    torch.sigmoid,
    softplus,
    torch.neg,
    lambda a: a.neg().neg(),
    lambda a: a * 1.0,
    lambda a: a * 0.5 + 2,
    lambda a: a**1.0,
    lambda a: (a * 0.1) ** 2,
    lambda a: a.t().t(),
    lambda a: a.detach() + a,
    lambda a: a.t().contiguous().t(),
    lambda a: a.unsqueeze(0).squeeze(0),
    lambda a: torch.cat(a.split(2, 1), 1),
    lambda a: torch.cat(list(reversed(a.chunk(2))), 0),
    lambda a: a.sum(0, keepdim=True).expand_as(a) * 0.1,
    lambda a: log_softmax(a, -1),
    lambda a: a.logsumexp(-1, keepdim=True) + a,
    lambda a: torch.where(a > 0, a, a * 0.3),
    lambda a: a.clone().mul_(0.7).add_(1),
    lambda a: a + torch.randn_like(a),
    lambda a: a * torch.bernoulli(torch.full_like(a, 0.5)),
    lambda a: dropout(a, 0.3),
    lambda a: a + torch.arange(4.0) / 3,
    lambda a: a + torch.zeros(4, 4).index_fill_(0, torch.tensor([1]), 2.0),
    lambda a: a.masked_fill(a > 1, 0.2),
]
TWO = [
    torch.add,
    torch.mul,
    torch.sub,
    torch.mm,
    torch.minimum,
    lambda a, b: torch.addmm(b[0], a, b),
    lambda a, b: binary_cross_entropy_with_logits(a, b.sigmoid().detach(), reduction="none"),
    lambda a, b: a / (1 + b.square()),
    lambda a, b: torch.stack([a, b]).mean(0),
    lambda a, b: torch.bmm(a.expand(2, 4, 4), b.expand(2, 4, 4))[1] * 0.1,
]


def program(seed, length=25):
    """A random program of tensors (4, 4): its results, and the gradients of their sum."""
    draw = random.Random(seed)
    plan = []
    for i in range(length):
        operation = draw.choice(ONE if draw.random() < 0.6 else TWO)
        plan.append((operation, [draw.randrange(max(0, i - 6), i + 2) for _ in range(1 if operation in ONE else 2)]))

    def run(*inputs):
        leaves = [t.detach().requires_grad_() for t in inputs]
        values = list(leaves)
        for operation, of in plan:
            values.append(operation(*(torch.tanh(values[i]) * 2 for i in of)))
        total = values[-1].sum() + values[-2].sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        ends = [values[-1].detach(), values[length // 2].detach(), total.detach()]
        return ends + [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, gradients, strict=True)]

    return run


def same_bits(a, b):
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_a_staged_program_gives_the_same_bits_on_other_inputs(seed):
    """Forty random programs; the graphs of ten share one arena, and run in turn."""
    arena, programs, graphs = Arena(), [program(s) for s in range(seed, seed + 10)], []
    torch.manual_seed(seed)
    for one in programs:
        before = torch.get_rng_state()
        graphs.append(stage(one, [torch.randn(4, 4), torch.randn(4, 4)], arena))
        torch.set_rng_state(before)
    for turn in range(3):
        for one, graph in zip(programs, graphs, strict=True):
            inputs = [torch.randn(4, 4), torch.randn(4, 4)]
            torch.manual_seed(turn)
            expected, after = one(*inputs), torch.get_rng_state()
            torch.manual_seed(turn)
            found = graph(*inputs)
            assert same_bits(found, expected)
            assert torch.equal(torch.get_rng_state(), after)  # the next draw is the same one too


@pytest.mark.parametrize("seed", range(40, 60, 10))
def test_draws_on_the_same_inputs_have_the_bits_of_the_whole(seed):
    """Twenty random programs in two parts, of which the first runs once."""
    arena, programs = Arena(), [program(s) for s in range(seed, seed + 10)]
    graphs = [Draws(one, [torch.zeros(4, 4), torch.zeros(4, 4)], arena) for one in programs]
    fewer = 0
    for one, graph in zip(programs, graphs, strict=True):
        inputs = [torch.randn(4, 4), torch.randn(4, 4)]
        fixed = graph.fixed(*inputs)
        for turn in range(3):
            torch.manual_seed(turn)
            expected, after = one(*inputs), torch.get_rng_state()
            torch.manual_seed(turn)
            assert same_bits(graph.drawn(*inputs, *fixed), expected)
            assert torch.equal(torch.get_rng_state(), after)
        fewer += len(operations(graph.fixed))
    assert fewer > 10


def test_memory_that_is_written_to_is_no_fixed_part():
    def writing(x):
        total = x * 2
        first, second = total.sin().split(2, 1)
        kept = first.clone().add_(torch.randn(4, 2))  # fixed, then written to
        both = (x.cos() + 1).sort()[0]  # one of several results, written to by one draw and read by the next
        both.mul_(torch.rand(4, 4))
        return [kept + second, both, total]

    graph, x = Draws(writing, [torch.zeros(4, 4)], Arena()), torch.randn(4, 4)
    fixed = graph.fixed(x)
    for turn in range(3):
        torch.manual_seed(turn)
        expected = writing(x)
        torch.manual_seed(turn)
        assert same_bits(graph.drawn(x, *fixed), expected)


def test_staging_draws_nothing():
    before = torch.get_rng_state()
    stage(lambda x: [x + torch.randn(3)], [torch.zeros(3)], Arena())
    assert torch.equal(torch.get_rng_state(), before)


def operations(graph):
    return [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]


def test_what_needs_no_computing_is_not_computed():
    def wasteful(x):
        unread = torch.arange(1000) * x.sum()  # noqa: F841
        ones = torch.ones_like(x).neg().neg().expand(x.shape) * 1.0 * 3
        return [(x * 1.0).detach() ** 1.0 * ones]

    graph, x = stage(wasteful, [torch.randn(4)], Arena()), torch.randn(4)
    assert operations(graph) == ["aten.mul.out"]
    assert torch.equal(graph(x)[0], x * 3)


def test_memory_is_taken_once_and_used_again():
    def deep(x):
        for _ in range(50):
            x = torch.tanh(x)
        return [x]

    arena, x = Arena(), torch.randn(1000)
    graph = stage(deep, [x], arena)
    assert arena.bytes == x.nbytes  # each result stands over the argument, which nothing reads again
    assert graph(x)[0].data_ptr() == graph(x + 1)[0].data_ptr()
    assert set(operations(graph)) == {"aten.tanh.out"}


def test_what_is_returned_is_not_written_over_by_later_operations():
    def keeps(x):
        early = torch.exp(x)
        late = early
        for _ in range(20):
            late = torch.tanh(late) + early.view(2, 2).t().reshape(4)
        return [early, early.view(2, 2).t(), late]

    graph, x = stage(keeps, [torch.zeros(4)], Arena()), torch.randn(4)
    assert same_bits(graph(x), keeps(x))


def test_a_result_stands_over_an_argument_only_where_no_other_part_of_it_is_read():
    def program(x):
        y = torch.exp(x)
        y = y + y.t()  # the same memory in another order
        y = y * y[0]  # a row of it
        y = torch.maximum(y, y.flatten()[3])  # an entry of it
        z = torch.sqrt(y)
        return [z - y, torch.where(y > 1, y, z), (y * 2).float() + y]

    arena, x = Arena(), torch.randn(4, 4)
    graph = stage(program, [torch.zeros(4, 4)], arena)
    for _ in range(2):
        assert same_bits(graph(x), program(x))


def test_a_view_that_its_operation_hides_keeps_its_memory():
    """A product of more than two dims ends in `_unsafe_view`, which says that its result is new and shows its argument."""

    def product(x, w):
        y = x @ w  # (2, 3, 4) x (4, 4)
        z = y.exp()
        for _ in range(10):
            z = torch.tanh(z + 1)
        return [z + y]

    inputs = [torch.randn(2, 3, 4), torch.randn(4, 4)]
    graph = stage(product, inputs, Arena())
    assert same_bits(graph(*inputs), product(*inputs))


def test_memory_with_gaps_is_left_alone():
    def gaps(x):
        return [torch.empty_strided((20, 2), (40, 1), dtype=x.dtype).fill_(1.5) * x]

    assert torch.equal(stage(gaps, [torch.ones(20, 2)], Arena())(torch.ones(20, 2))[0], torch.full((20, 2), 1.5))


def test_a_copy_that_is_written_to_or_given_away_stays_a_copy():
    def copies(x):
        written = (x * 1.0).mul_(3)
        return [x * 1.0, written, x**1.0 + written]

    graph, x = stage(copies, [torch.zeros(4)], Arena()), torch.randn(4)
    before, expected = x.clone(), copies(x.clone())
    given, *rest = graph(x)
    assert same_bits([given, *rest], expected) and torch.equal(x, before)
    assert given.data_ptr() != x.data_ptr()


def test_a_tensor_that_lives_outside_is_read_each_time():
    outside = torch.ones(3)
    graph = stage(lambda x: [x * (outside * 2)], [torch.zeros(3)], Arena())
    outside.fill_(5.0)
    assert torch.equal(graph(torch.ones(3))[0], torch.full((3,), 10.0))


# --- the step ------------------------------------------------------------------------------------------


class Transposed(nn.Module):
    """Parameters that the story reads transposed, broadcast, and twice: no gradient has its parameter's strides."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(3, 5))
        self.loc, self.same, self.all = (nn.Parameter(torch.zeros(5)) for _ in range(3))

    def forward(self, z):
        return torch.einsum("nk,kd->nd", z, self.W) + (self.loc + self.same) + self.all.sum()


def odd_pair():
    def model(decoder, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 3), 1.0).to_event(1)).squeeze(-2)
            with pyro.plate("features", 5, dim=-1):
                return pyro.sample("x", dist.Normal(decoder(z), 0.5).mask(mask), obs=x)

    def guide(encoder, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(encoder(x).unsqueeze(-2), 0.3).to_event(1))

    torch.manual_seed(0)
    return ppvae.Pair(model, guide, decoder=Transposed(), encoder=nn.Linear(5, 3))


@pytest.mark.parametrize("compile", ["auto", "off"])
def test_every_gradient_lies_as_its_parameter_does(compile):
    """A fused optimizer reads memory in order, whatever the strides: a transposed gradient trains the wrong entries."""
    made, x = odd_pair(), torch.randn(40, 5)
    theirs = odd_pair()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2, fused=False)
    ours = Update(made, ppvae.elbo(), list(made.parameters()), 1e-2, clip=0.5, compile=compile)
    for turn in range(6):
        torch.manual_seed(turn)
        ours(enter(made, x), torch.zeros((), dtype=torch.float64))
        assert all(p.grad.stride() == p.stride() for p in made.parameters())
        assert len({p.grad.data_ptr() for p in made.parameters()}) == len(list(made.parameters()))
        torch.manual_seed(turn)
        optimizer.zero_grad()
        (-ppvae.elbo()(theirs, x).mean()).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
    for a, b in zip(made.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["vae", "factor_analysis_exact", "two_layer"])
@pytest.mark.parametrize(
    "objective", [ppvae.iw_elbo(5), ppvae.elbo(3, gradient="stl"), ppvae.elbo(kl=ppvae.free_bits(0.5))]
)
def test_ten_steps_on_fresh_batches_of_changing_shapes(name, objective):
    """Batches of 7, 4, 7, 1, …: each shape has its graph, and every number is the eager step's."""
    ends = []
    for staged in (True, False):
        made = pair(name)
        entries, mask = data(made)
        ppvae.check(made, entries, {"x": mask})
        step = Step(made, objective, list(made.parameters()), staged)
        found = []
        for turn in range(12):
            entries, mask = data(made, rows=(7, 4, 7, 1)[turn % 4], seed=turn)
            torch.manual_seed(turn)
            found.append(step(enter(made, entries, {"x": mask})).clone())
            found += [p.grad.clone() for p in made.parameters()]
        assert step.staged == staged, step.how
        ends.append(found)
    assert same_bits(*ends)


def test_the_graph_of_training_is_not_the_graph_of_evaluation():
    """Dropout draws in one and not in the other."""
    made = pair("vae")
    made.encoder.net = nn.Sequential(nn.Dropout(0.5), made.encoder.net)
    step, (entries, mask) = Step(made, ppvae.elbo(), list(made.parameters()), True), data(made)
    table = enter(made, entries, {"x": mask})
    for training in (True, False, True, False):
        made.train(training)
        step.call.train(training)
        step(table)
    assert step.staged and len(step.graphs) == 2


def test_inductor_on_request_agrees_to_rounding():
    made = pair("vae")
    entries, mask = data(made, rows=16)
    steps = [Step(made, ppvae.elbo(), list(made.parameters()), True, inductor) for inductor in (False, True)]
    for turn in range(3):
        found = []
        for step in steps:
            torch.manual_seed(turn)
            found.append(
                [step(enter(made, entries, {"x": mask})).clone(), *(p.grad.clone() for p in made.parameters())]
            )
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert steps[1].how == "staged, inductor"


# --- the update ----------------------------------------------------------------------------------------


def twin(function, inputs):
    """A recording on the CPU: the function again, its results put where they stood."""
    outputs = [t.clone() for t in function(*inputs)]

    def replay():
        for place, value in zip(outputs, function(*inputs), strict=True):
            place.copy_(value)

    return replay, outputs


def updates(capturing, monkeypatch, compile="auto"):
    torch.manual_seed(0)
    made = pair("vae")
    before = made.state_dict()
    if capturing:

        def recorded(function, inputs):  # recording runs nothing: what it changed is put back
            state = {k: v.clone() for k, v in made.state_dict().items()}
            moments = [{k: v.clone() for k, v in s.items()} for s in update.optimizer.state.values()]
            generator = torch.get_rng_state()
            replay, outputs = twin(function, inputs)
            made.load_state_dict(state)
            for own, kept in zip(update.optimizer.state.values(), moments, strict=True):
                for name, value in kept.items():
                    own[name].copy_(value)
            torch.set_rng_state(generator)
            return replay, outputs

        monkeypatch.setattr(captured, "record", recorded)
    update = Update(made, ppvae.elbo(kl=ppvae.annealed(0.5)), list(made.parameters()), 1e-2, "cosine", 1.0, compile)
    if capturing:
        update.uncaptured = ""
    numbers = []
    for turn in range(20):
        entries, mask = data(made, rows=(8, 8, 3)[turn % 3], seed=turn)
        torch.manual_seed(turn)
        done = torch.tensor(turn / 20, dtype=torch.float64)
        numbers.append(update(enter(made, entries, {"x": mask}), done).clone())
    assert before.keys() == made.state_dict().keys()
    return update, numbers, made.state_dict()


def test_a_captured_update_does_what_the_update_does(monkeypatch):
    """On a twin that replays on a CPU: static inputs, schedules and the learning rate among them, optimizer inside."""
    plain, numbers, state = updates(False, monkeypatch)
    again, replayed, end = updates(True, monkeypatch)
    assert plain.how == "staged" and again.how == "staged, CUDA graph" and len(again.captured) == 2
    assert same_bits(numbers, replayed) and same_bits(state.values(), end.values())


def test_an_update_that_cannot_be_recorded_says_so_and_goes_on(monkeypatch, caplog):
    caplog.set_level("INFO", "ppvae")
    made = pair("vae")
    update = Update(made, ppvae.elbo(), list(made.parameters()))
    update.uncaptured = ""

    def fails(function, inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured, "record", fails)
    entries, mask = data(made)
    for _ in range(4):
        bound, *_ = update(enter(made, entries, {"x": mask}), torch.zeros((), dtype=torch.float64))
        assert bound.isfinite()
    assert "no CUDA graph: operation not permitted" in update.how and "not captured" in caplog.text


def test_the_learning_rate_follows_its_cosine():
    made = pair("vae")
    update = Update(made, ppvae.elbo(), list(made.parameters()), 0.1, "cosine")
    entries, mask = data(made)
    rates = []
    for done in (0.0, 0.5, 1.0):
        update(enter(made, entries, {"x": mask}), torch.tensor(done, dtype=torch.float64))
        rates.append(float(update.rate))
    assert rates == pytest.approx([0.1, 0.05, 0.0], abs=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("name", ppvae.names())
def test_on_a_gpu_updates_are_captured_and_agree_with_eager_ones(name):
    ends = []
    for compile in ("auto", "off"):
        made = pair(name)
        entries, mask = data(made, rows=25)
        result = ppvae.fit(made, entries, {"x": mask}, epochs=6, batch_size=10, compile=compile, device="cuda")
        assert result.step == ("staged, CUDA graph" if compile == "auto" else "eager: compile='off'")
        ends.append([r["bound"] for r in result.history])
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


# --- precision -----------------------------------------------------------------------------------------


def test_bf16_rounds_products_and_nothing_else(monkeypatch):
    torch.set_default_dtype(torch.float32)
    made, seen = pair("vae"), {}
    entries, mask = data(made, rows=30)
    forward = nn.functional.linear

    def watched(*args):
        seen["product"] = forward(*args).dtype
        return forward(*args)

    monkeypatch.setattr(nn.functional, "linear", watched)
    with precision.precise(made, "bf16"):
        traces = run(made, enter(made, entries, {"x": mask}), 3)
        for _, site in [*traces.drawn(), *traces.scored()]:
            assert site["value"].dtype == torch.float32 and log_prob(site).dtype == torch.float32
        rounded = ppvae.elbo(200)(made, entries, {"x": mask}).mean()
    assert seen["product"] == torch.bfloat16
    assert all("forward" not in vars(module) for module in made.modules())  # as they were
    full = ppvae.elbo(200)(made, entries, {"x": mask}).mean()
    assert rounded != full and abs(rounded - full) < 0.02 * abs(full)
    ends = []
    for compile in ("auto", "off"):
        fresh = pair("vae")
        result = ppvae.fit(fresh, entries, {"x": mask}, epochs=3, batch_size=10, precision="bf16", compile=compile)
        assert result.step.startswith("staged" if compile == "auto" else "eager")
        assert {p.dtype for p in fresh.parameters()} == {torch.float32}
        ends.append(list(fresh.parameters()))
    assert same_bits(*ends)


def test_tf32_is_on_inside_and_as_it_was_outside(monkeypatch):
    torch.set_default_dtype(torch.float32)
    made = pair("vae")
    monkeypatch.setattr(precision, "_full_in_onednn", lambda: True)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(KeyboardInterrupt), precision.precise(made, "tf32"):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
        raise KeyboardInterrupt
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    monkeypatch.setattr(precision, "_full_in_onednn", lambda: False)
    with precision.precise(made, "tf32"):
        assert torch.get_float32_matmul_precision() == "highest"
    with precision.precise(made, "float32"):
        assert not torch.backends.cudnn.allow_tf32


def test_less_precision_is_refused_where_an_identity_is_wanted():
    torch.set_default_dtype(torch.float32)
    entries, _ = data(pair("vae"))
    with pytest.raises(ppvae.Problem, match="float64"):
        ppvae.fit(pair("vae").double(), entries, precision="tf32")
    made = pair("factor_analysis_exact")
    with pytest.raises(ppvae.Problem, match="exact guide"):
        ppvae.fit(made, data(made)[0], precision="bf16")
    with pytest.raises(ppvae.Problem, match="precision is 'half'"):
        ppvae.fit(pair("vae"), entries, precision="half")


def test_a_patched_layer_is_patched_afterwards(monkeypatch):
    made = pair("vae").float()
    layer = next(m for m in made.modules() if isinstance(m, nn.Linear))
    plain = layer.forward
    layer.forward = lambda h: 2 * plain(h)
    patched = layer.forward
    with precision.precise(made, "bf16"):
        assert layer.forward is not patched
    assert layer.forward is patched
