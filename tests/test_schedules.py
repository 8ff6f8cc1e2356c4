"""What is done to the KL, when, and what the history says of it; and what a fit says when a number is not finite."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from torch import nn

import ppvae
from ppvae.door import enter
from ppvae.objectives import annealed, beta, capacity, elbo, free_bits, iw_elbo
from ppvae.tracing.terms import unit_kl
from ppvae.tracing.traces import run


@pytest.mark.parametrize(
    "shape, weights",
    [
        (annealed(0.5), {0.0: 0.0, 0.125: 0.25, 0.25: 0.5, 0.5: 1.0, 0.75: 1.0, 1.0: 1.0}),
        (annealed(1.0), {0.0: 0.0, 0.3: 0.3, 1.0: 1.0}),
        (annealed(0.5, cycles=4), {0.0: 0.0, 0.0625: 0.5, 0.125: 1.0, 0.2: 1.0, 0.25: 0.0, 0.8125: 0.5, 1.0: 1.0}),
        (annealed(0.25, cycles=2), {0.0625: 0.5, 0.125: 1.0, 0.49: 1.0, 0.5: 0.0, 0.5625: 0.5}),
    ],
    ids=repr,
)
def test_the_weight_at_known_times(shape, weights):
    for done, weight in weights.items():
        for when in (done, torch.tensor(done)):
            assert float(shape.weight(when)) == pytest.approx(weight, abs=1e-12)
        assert elbo(kl=(shape, beta(3.0))).in_force(done) == {"kl_weight": pytest.approx(3 * weight)}


def test_the_capacity_at_known_times():
    for done, nats in {0.0: 0.0, 0.25: 5.0, 0.5: 10.0, 1.0: 10.0}.items():
        assert elbo(kl=capacity(10.0, 50.0)).in_force(done) == {"capacity": pytest.approx(nats)}


def test_each_shape_by_its_formula():
    """On the same draws: the bound is the likelihood less the shaped KL, and the terms stay the true ones."""
    made = pair("vae", hidden=(8,))
    x = data(made)[0]["x"]
    torch.manual_seed(1)
    plain = elbo().terms(made, x)
    kl = plain.kl["z"]
    with torch.no_grad():
        units = unit_kl(run(made, enter(made, x)))["z"]
    formulas = {
        beta(4.0): 4 * kl,
        annealed(0.5): 0.6 * kl,
        (beta(2.0), annealed(0.5)): 1.2 * kl,
        free_bits(100.0): torch.full_like(kl, 100.0),
        free_bits(1e-9): kl.mean().expand(12),
        free_bits(float(units.mean(0).mean()), per="unit"): units.mean(0).clamp(min=float(units.mean(0).mean())).sum(),
        (free_bits(100.0), annealed(0.5), beta(2.0)): torch.full_like(kl, 120.0),
        capacity(10.0, 7.0): 7 * (kl - 6.0).abs(),
    }
    assert units.shape == (12, 2) and torch.allclose(units.sum(1), kl, atol=1e-12)
    for shape, penalty in formulas.items():
        torch.manual_seed(1)
        objective = elbo(kl=shape)
        bound, terms = objective.evaluate(made, enter(made, x), 0.3)
        assert torch.allclose(bound, plain.likelihood - penalty, atol=1e-12), shape
        assert torch.equal(terms.kl["z"], kl) and torch.equal(terms.likelihood, plain.likelihood)
        torch.manual_seed(1)
        end = objective(made, x)  # outside of fit the schedule stands at its end
        torch.manual_seed(1)
        assert torch.equal(end, objective(made, x, done=1.0)) and torch.equal(end, bound) == (not objective.scheduled)
    assert elbo(kl=free_bits(1.0)).coupled and not elbo(kl=beta(1.0)).coupled


def test_a_coordinate_by_coordinate_kl_is_that_of_two_gaussians():
    made, x, mask = linear_gaussian("factor_analysis_diagonal", D=4, K=2)
    units = unit_kl(run(made, enter(made, x, mask), particles=3))["z"]
    loc, scale = made.encoder.linear(torch.where(mask, x, 0.0)), made.encoder.log_scale.exp()
    assert torch.allclose(units, 0.5 * (loc**2 + scale**2 - 1) - scale.log(), atol=1e-12)


class Spy:
    """An objective with a schedule, which keeps what it is told."""

    scheduled = True

    def __init__(self):
        self.told = []

    def __call__(self, pair, x, mask=None, *, done=1.0):
        self.told.append(done)
        return elbo()(pair, x, mask) * done


def test_fit_tells_a_schedule_how_much_is_done():
    made, spy = pair("vae", hidden=(4,)), Spy()
    ppvae.fit(made, data(made, rows=20)[0], objective=spy, epochs=3, batch_size=8, held_out=0.2, compile="off")
    steps = [d for d in spy.told if isinstance(d, torch.Tensor)]
    assert [float(d) for d in steps] == pytest.approx([i / 6 for i in range(6)])
    assert all(d.dim() == 0 for d in steps) and 1.0 in spy.told  # what is held out is judged at the schedule's end


@pytest.mark.parametrize("kl", [annealed(0.5), annealed(0.5, 3), capacity(2.0, 5.0), (annealed(), beta(4.0))], ids=repr)
def test_a_schedule_runs_on_in_the_staged_step(kl):
    ends = []
    for compile in ("auto", "off"):
        made = pair("vae", hidden=(4,))
        result = ppvae.fit(
            made,
            data(made, rows=24)[0],
            objective=elbo(kl=kl),
            epochs=6,
            batch_size=8,
            learning_rate=0.01,
            compile=compile,
        )
        assert (result.step == "staged") == (compile == "auto")
        ends.append([*made.state_dict().values()])
        records = [{k: r[k] for k in ("kl_weight", "capacity") if k in r} for r in result.history]
        last = [(3 * e + 2) / 18 for e in range(6)]  # an epoch's last step
        assert records == [pytest.approx(elbo(kl=kl).in_force(done)) for done in last]
    assert all(map(torch.equal, *ends))


def test_the_history_holds_the_true_terms():
    """Their difference is the bound where no shape is; with one the bound is less by its weight."""
    for objective, weight in ((elbo(), 1.0), (elbo(kl=beta(3.0)), 3.0), (elbo(2, "stl"), 1.0)):
        for compile in ("auto", "off"):
            made = pair("two_layer", hidden=(4, 4))
            history = ppvae.fit(
                made, data(made)[0], objective=objective, epochs=3, batch_size=5, compile=compile
            ).history
            for record in history:
                assert set(record["kl"]) == {"z1", "z2"}
                assert record["bound"] == pytest.approx(
                    record["likelihood"] - weight * sum(record["kl"].values()), abs=1e-9
                )
    made = pair("vae", hidden=(4,))
    record = ppvae.fit(made, data(made)[0], objective=iw_elbo(3), epochs=1).history[0]
    assert "kl" not in record and "likelihood" not in record


def noisy(seed=0):
    """Rows in which there is next to nothing to explain: the plain bound gives up the latents."""
    torch.manual_seed(seed)
    made = ppvae.make("vae", features=6, latents=3, hidden=(16,), likelihood="normal")
    return made, torch.randn(200, 6)


@pytest.mark.parametrize("kl, groups", [(free_bits(0.5), 1), (free_bits(0.3, per="unit"), 3)], ids=repr)
def test_free_bits_keep_what_the_plain_bound_gives_up(kl, groups):
    found = {}
    for objective in (elbo(), elbo(kl=kl)):
        made, x = noisy()
        ppvae.fit(made, x, objective=objective, epochs=60, batch_size=100, learning_rate=1e-2)
        with torch.no_grad():
            units = unit_kl(run(made, enter(made, x)))["z"].mean(0)
        found[objective] = units.sum()[None] if groups == 1 else units
    collapsed, kept = found.values()
    assert (collapsed < 0.6 * kl.nats).any() and (kept > 0.99 * kl.nats).all(), found


def test_the_kl_follows_the_capacity():
    made, x, _ = linear_gaussian("factor_analysis_diagonal", N=200, D=6, K=2)
    objective = elbo(kl=capacity(target=3.0, weight=50.0))
    result = ppvae.fit(made, x, objective=objective, epochs=80, batch_size=100, learning_rate=2e-2)
    assert abs(result.history[-1]["kl"]["z"] - 3.0) < 0.05 * 3.0
    plain, x, _ = linear_gaussian("factor_analysis_diagonal", N=200, D=6, K=2)
    free = ppvae.fit(plain, x, epochs=80, batch_size=100, learning_rate=2e-2).history[-1]["kl"]["z"]
    assert abs(free - 3.0) > 0.05 * 3.0


def test_two_schedules_are_two_fits(tmp_path):
    x = data(pair("vae", hidden=(4,)))[0]
    options = {"epochs": 1, "checkpoint": tmp_path / "a"}
    ppvae.fit(pair("vae", hidden=(4,)), x, objective=elbo(kl=annealed(0.5)), **options)
    ppvae.fit(pair("vae", hidden=(4,)), x, objective=elbo(kl=annealed(0.5)), **options)
    for other in (elbo(), elbo(kl=annealed(0.4)), elbo(1, "stl", annealed(0.5)), iw_elbo(1), iw_elbo(1, "dreg")):
        with pytest.raises(ppvae.Problem, match="another fit.*objective"):
            ppvae.fit(pair("vae", hidden=(4,)), x, objective=other, **options)


def test_an_objective_without_words_goes_by_its_name(tmp_path):
    """A function's repr holds where it lies in memory, which the next process does not share."""
    from ppvae.fitting.loop import _named

    assert _named(Spy()) == "Spy" and "0x" not in _named(lambda pair, x, mask=None: 0.0)
    assert _named(elbo(kl=beta(2.0))) == "elbo(particles=1, gradient='pathwise', kl=beta(weight=2.0))"


# --- what a fit says of its objective, and of numbers that are not finite ---------------------------------


def test_fit_checks_the_objective_that_it_is_given():
    made, x = pair("vae", hidden=(4,)), data(pair("vae"))[0]["x"]

    def likelihood_alone(pair, x, mask=None):
        with ppvae.objectives.frozen(pair.encoder):
            return elbo()(pair, x, mask)

    ppvae.check(made, x)
    for call in (ppvae.check, ppvae.fit):
        with pytest.raises(ppvae.Problem, match="no gradient reaches the parameter 'encoder"):
            call(made, x, objective=likelihood_alone)
    made.encoder.requires_grad_(False)
    ppvae.fit(made, x, objective=likelihood_alone, epochs=1)


class Slope(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))


def steep(slope, x=None, mask=True, *, size=1):
    """The scale overflows in the row whose first entry is large, and there alone."""
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1)).squeeze(-2)
        loc = slope.a * z
        if x is not None:
            loc = loc + (torch.where(x[:, :1] > 50, 1e200 * slope.b.sum(), 0.0) ** 2)
        with pyro.plate("features", 2, dim=-1):
            return pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def steep_guide(slope, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal((x * 0.01 + slope.b).unsqueeze(-2), 1.0).to_event(1))


@pytest.mark.parametrize("compile", ["auto", "off"])
@pytest.mark.parametrize("batch_size", [4, 20])
def test_a_bound_that_is_not_finite_names_its_site_and_its_row(compile, batch_size):
    torch.manual_seed(0)
    x = torch.randn(20, 2)
    x[13, 0] = 60.0
    made = ppvae.Pair(steep, steep_guide, slope=Slope())
    before = {name: value.clone() for name, value in made.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(ppvae.Problem, match=r"in epoch \d: the log-probability of 'x' is not finite, first in row 13"):
        ppvae.fit(made, x, epochs=2 + 20 // batch_size, batch_size=batch_size, compile=compile)
    if batch_size == 4:
        assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_row_is_found_on_the_draws_that_failed():
    """Whether a row overflows depends on its draw: other draws would name another row."""
    struck = []

    def fickle(slope, x=None, mask=True, *, size=1):
        with pyro.plate("data", size if x is None else len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, 2), 1.0).to_event(1)).squeeze(-2)
            now = (z[..., :1] > 1.2) & (slope.b.sum() != 0)
            if x is not None and z.dim() == 2 and now.any():
                struck.append(int(x[now.flatten()][0, 1]))
            with pyro.plate("features", 2, dim=-1):
                return pyro.sample("x", dist.Normal(torch.where(now, 1e200, slope.a * z), 1.0), obs=x)

    x = torch.stack([torch.randn(20), torch.arange(20.0)], 1)
    made = ppvae.Pair(fickle, steep_guide, slope=Slope())
    with pytest.raises(ppvae.Problem, match="'x' is not finite, first in row") as met:
        ppvae.fit(made, x, epochs=5, compile="off")
    assert f"first in row {struck[0]}\n" in str(met.value) and len(set(struck)) < 3


def test_a_gradient_that_is_not_finite_names_its_parameter():
    made, x, _ = linear_gaussian("factor_analysis_diagonal", N=20, D=4, K=1)
    start = made.decoder.loc.sum().item()
    good = []

    def cliff(pair, x, mask=None):
        bound, sum_ = elbo()(pair, x, mask), pair.decoder.loc.sum()
        if sum_.item() == start:
            return bound
        good.append({name: value.clone() for name, value in pair.state_dict().items()})
        return bound + (sum_ - sum_.detach()).square().sqrt()  # 0, with the gradient 0 / 0

    with pytest.raises(ppvae.Problem, match="in epoch 2: the gradient of 'decoder.loc' is not finite"):
        ppvae.fit(made, x, objective=cliff, epochs=5)
    assert all(torch.equal(good[0][name], value) for name, value in made.state_dict().items())


def test_nothing_is_looked_at_while_all_goes_well(monkeypatch):
    """No number leaves the device within an epoch."""
    made, x, _ = linear_gaussian("factor_analysis_diagonal", N=40, D=4, K=1)
    looked = []
    whole = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda self: looked.append(self) or whole(self))
    ppvae.fit(made, x, epochs=1, batch_size=20, objective=elbo(kl=annealed()))
    few = len(looked)
    ppvae.fit(made, x, epochs=1, batch_size=2, objective=elbo(kl=annealed()))
    assert len(looked) - few <= few and math.isfinite(few)
