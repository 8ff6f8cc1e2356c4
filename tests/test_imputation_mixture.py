"""Imputation mixtures: the guide of complete rows averaged over what may have stood in the gaps."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import data, linear_gaussian, pair
from oracles import dense_log_evidence, dense_posterior
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal

import ppvae
from ppvae import exact
from ppvae.door import enter
from ppvae.nn import Mixture
from ppvae.nn.imputations import Imputations, each
from ppvae.objectives.completed import _repeated
from ppvae.tracing.traces import run

# --- factor analysis, whose encoder of complete rows is exact ---------------------------------------------------


class FactorAnalysis(nn.Module):
    """z ~ N(0, I), x ~ N(W z + loc, scale): encoder of complete rows, decoder and prior."""

    def __init__(self, decoder):
        super().__init__()
        self.theta = decoder

    def prior(self):
        return dist.Normal(torch.zeros(1, self.theta.W.shape[1]), 1.0).to_event(1)

    def encode(self, x):
        t = self.theta
        q = exact.posterior(t.W, t.loc, t.scale, x.reshape(-1, x.shape[-1]))
        shape = *x.shape[:-1], 1
        return dist.MultivariateNormal(
            q.loc.reshape(*shape, -1),
            scale_tril=q.scale_tril.expand(len(q.loc), -1, -1).reshape(*shape, *q.scale_tril.shape[-2:]),
        )

    def decode(self, z):
        return dist.Normal(z @ self.theta.W.T + self.theta.loc, self.theta.scale)


def mixed(made, components, rounds, story=None):
    """A pair of the same story, its guide an imputation mixture."""
    parts = FactorAnalysis(made.decoder) if story is None else made.decoder

    def guide(decoder, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            imputed = Imputations(parts.encode, parts.decode, parts.prior(), x, mask, components, rounds)
            x_a = pyro.sample("x_a", imputed, infer={"is_auxiliary": True})
            pyro.sample("z", Mixture(parts.encode(each(x_a))))

    return ppvae.Pair(story or made._functions["model"], guide, decoder=made.decoder)


def test_of_a_long_chain_the_mixture_has_the_posteriors_two_moments():
    made, x, mask = linear_gaussian(N=6, D=6, K=2)
    with torch.no_grad():
        parts, A = FactorAnalysis(made.decoder), 4000
        rows = each(Imputations(parts.encode, parts.decode, parts.prior(), x, mask, A, rounds=40).sample())
        q = parts.encode(rows)
        loc, covariance = dense_posterior(made.decoder.W, made.decoder.loc, made.decoder.scale, x, mask)
    mean, variance = loc, covariance.diagonal(dim1=-2, dim2=-1)  # (N, K)
    apart = q.loc.squeeze(-2) - mean  # (A, N, K), of mean 0 if the chain has converged
    error = apart.std(0) / math.sqrt(A)
    assert (apart.mean(0).abs() <= 5 * error + 1e-12).all()
    within = q.variance.squeeze(-2)[0]  # the same for all complete rows
    second = within + apart.square()
    error = second.std(0) / math.sqrt(A)
    assert ((second.mean(0) - variance).abs() <= 5 * error + 1e-12).all()
    assert (within[0] / variance[0] < 0.5).all()  # one complete row's Gaussian is far too sure where nothing was seen
    assert torch.equal(each(rows.movedim(0, -2).unsqueeze(-3)), rows) and (rows[:, mask] == x[mask]).all()


def expected(objective, made, x, mask, times):
    """The mean of a bound over draws and imputations, by row, and its standard error: rows are copied, not called again."""
    with torch.no_grad():
        bounds = objective(made, x.repeat(times, 1), mask.repeat(times, 1)).reshape(times, len(x))
    return bounds.mean(0), bounds.std(0) / math.sqrt(times)


def test_the_bound_is_the_evidence_where_nothing_is_missing_and_below_it_elsewhere():
    made, x, mask = linear_gaussian(N=12, D=6, K=2)
    d = made.decoder
    truth = dense_log_evidence(d.W, d.loc, d.scale, x, mask).detach()
    gaps, errors = {}, {}
    for A in (1, 3, 10):
        bound, error = expected(ppvae.elbo(5), mixed(made, A, 5), x, mask, 300)
        assert (bound <= truth + 5 * error + 1e-10).all()
        assert (bound[1] - truth[1]).abs() < 1e-9  # complete: A equal components, each exact
        gaps[A], errors[A] = float((truth - bound).mean()), float(error.square().sum().sqrt() / len(x))
    assert gaps[1] > gaps[3] + 5 * math.hypot(errors[1], errors[3])
    assert gaps[3] > gaps[10] + 5 * math.hypot(errors[3], errors[10]) and gaps[10] > 0


# --- a mixture of factor analysers: where the telling column is missing, two things may have stood there ----------


class Two(nn.Module):
    """z ~ (1/2) sum_c N(m_c, s^2), x ~ N(w z, psi^2): column 0 tells the component, column 1 hardly does."""

    def __init__(self):
        super().__init__()
        self.m, self.s, self.w, self.psi = torch.tensor([-2.0, 2.0]), 0.4, torch.tensor([1.5, 0.05, 0.4]), 0.5
        self.register_buffer("zero", torch.zeros(()))

    def prior(self):
        parts = dist.Normal(self.m[:, None], self.s).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)

    def decode(self, z):
        return dist.Normal(z * self.w, self.psi)

    def encode(self, x):
        """The posterior of a complete row under the component that is more probable."""
        component = (x @ self.w > 0).long()
        precision = self.s**-2 + self.w.square().sum() / self.psi**2
        loc = (self.m[component] / self.s**2 + x @ self.w / self.psi**2) / precision
        return dist.Normal(loc[..., None, None], precision**-0.5).to_event(1)

    def log_evidence(self, x, mask):
        """By enumeration of the components, dense and row by row."""
        covariance = self.s**2 * torch.outer(self.w, self.w) + self.psi**2 * torch.eye(3)
        found = []
        for row, o in zip(x, mask, strict=True):
            each = [
                MultivariateNormal(m * self.w[o], covariance[o][:, o]).log_prob(row[o]) if o.any() else torch.zeros(())
                for m in self.m
            ]
            found.append(torch.stack(each).logsumexp(0) - math.log(2))
        return torch.stack(found)


def two_story(decoder, x=None, mask=True, *, size=1):
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        z = pyro.sample("z", decoder.prior())
        with pyro.plate("features", 3, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", decoder.decode(z.squeeze(-2)), obs=x)


def test_more_imputations_close_the_gap_of_a_posterior_with_two_modes():
    made = ppvae.Pair(two_story, None, decoder=Two())
    x = made.model(size=40)
    mask = torch.ones(40, 3, dtype=torch.bool)
    mask[:30, 0], mask[20:30, 2], mask[29] = False, False, False
    truth = made.decoder.log_evidence(x, mask)
    hard = slice(20, 29)  # only the column that tells nothing is observed
    gaps, errors = {}, {}
    for A in (1, 3, 10):
        for objective in (ppvae.iw_elbo(5), ppvae.elbo(5)):
            bound, error = expected(objective, mixed(made, A, 3, two_story), x, mask, 300)
            assert (bound <= truth + 5 * error + 1e-10).all()
        gaps[A] = float((truth - bound)[hard].mean())
        errors[A] = float(error[hard].square().sum().sqrt() / 9)
    assert gaps[1] > math.log(2)  # one mode of two
    assert gaps[1] > gaps[3] + 5 * math.hypot(errors[1], errors[3])
    assert gaps[3] > gaps[10] + 5 * math.hypot(errors[3], errors[10])
    assert gaps[10] < 0.2


# --- the auxiliary draws are honest --------------------------------------------------------------------------------


def small(**options):
    return pair("imputation_mixture", features=5, latents=2, hidden=(16,), likelihood="normal", **options)


def test_the_guide_is_traced_once_an_evaluation_and_the_story_replayed_on_its_draws(monkeypatch):
    made, calls = small(), []
    entries, mask = data(made)
    once = Imputations.rsample
    monkeypatch.setattr(Imputations, "rsample", lambda self, *given: calls.append(1) or once(self, *given))
    table = enter(made, entries, {"x": mask})
    traces = run(made, table, 4)
    assert len(calls) == 1
    assert traces.model.nodes["z"]["value"] is traces.guide.nodes["z"]["value"] and "x_a" not in traces.model.nodes
    q = Mixture(
        made.encoder(each(traces.guide.nodes["x_a"]["value"]))
    )  # scored under the imputations that it was drawn with
    z = traces.guide.nodes["z"]
    assert torch.equal(q.expand((4, len(table), 1)).log_prob(z["value"]), z["fn"].log_prob(z["value"]))


@pytest.mark.parametrize("name, gradient", [("elbo", "stl"), ("iw_elbo", "stl")])
def test_gradients_that_run_the_guide_twice_keep_its_imputations(name, gradient):
    """Scored under other imputations than the draws came from, a bound would exceed the evidence."""
    made = small()
    entries, mask = data(made)
    found = []
    for how in (gradient, "pathwise"):
        torch.manual_seed(0)
        found.append(getattr(ppvae, name)(6, how)(made, entries, {"x": mask}))
    assert torch.allclose(*found, atol=1e-10)


def test_equal_seeds_give_equal_imputations_and_no_gradient_passes_through_them():
    made = small()
    entries, mask = data(made)
    prior = dist.Normal(torch.zeros(1, 2), 1.0).to_event(1)
    imputed = Imputations(made.encoder, made.decoder, prior, entries["x"], mask, components=7, rounds=2)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(imputed.expand((3, len(mask), 1)).rsample())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (3, 12, 1, 7, 5) and (draws[0] == draws[0][:1]).all() and not draws[0].requires_grad
    assert imputed.log_prob(draws[0]).shape == (12, 1) and not imputed.log_prob(draws[0]).any()


def test_imputations_can_be_masked_as_every_distribution_can():
    """An attribute called ``mask`` stood where the method is."""
    made = small()
    entries, mask = data(made)
    imputed = Imputations(
        made.encoder, made.decoder, dist.Normal(torch.zeros(1, 2), 1.0).to_event(1), entries["x"], mask
    )
    masked = imputed.mask(torch.zeros(12, 1, dtype=torch.bool))
    assert masked.log_prob(masked.sample()).shape == (12, 1)


def test_what_fills_a_gap_is_never_read():
    made = small()
    entries, mask = data(made)
    prior, found = dist.Normal(torch.zeros(1, 2), 1.0).to_event(1), []
    for fill in (0.0, math.nan, 1e6):
        x = torch.where(mask, entries["x"], fill)
        torch.manual_seed(0)
        rows = Imputations(made.encoder, made.decoder, prior, x, mask).sample()
        torch.manual_seed(0)
        bound = ppvae.elbo(3)(made, x, mask)
        found.append((rows, bound, *torch.autograd.grad(bound.sum(), list(made.parameters()))))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "categorical"])
def test_whole_rows_empty_rows_and_masks_by_row(likelihood):
    made = pair("imputation_mixture", hidden=(8,), likelihood=likelihood)
    entries, mask = data(made)
    mask[0], mask[1] = False, True
    post = ppvae.condition(made, entries, {"x": mask})
    assert post.log_evidence(50).isfinite().all()
    complete = post.impute(4)
    assert (complete[:, mask] == entries["x"][mask]).all() and complete.isfinite().all()
    assert ppvae.elbo()(made, entries, {"x": torch.arange(12) > 3}).isfinite().all()
    result = ppvae.fit(made, entries["x"][1:], mask[1:], epochs=2, batch_size=5)
    assert result.step == "staged"


def test_counts_of_imputations_and_rounds_are_at_least_one():
    for options in ({"components": 0}, {"rounds": 0}, {"components": 2.5}):
        made = small(**options)
        entries, mask = data(made)
        with pytest.raises(ppvae.Problem, match=next(iter(options))):
            ppvae.elbo()(made, entries, {"x": mask})


# --- training on completed rows -----------------------------------------------------------------------------------


def test_the_story_climbs_the_mixtures_bound_and_the_encoder_the_bound_of_the_rows_that_were_imputed():
    made = small()
    entries, mask = data(made)
    encoder, decoder = (list(part.parameters()) for part in (made.encoder, made.decoder))
    torch.manual_seed(0)
    bound = ppvae.completed_rows(5)(made, entries, {"x": mask})
    ours = torch.autograd.grad(bound.sum(), encoder + decoder)
    torch.manual_seed(0)
    own = ppvae.elbo(5)(made, entries, {"x": mask})
    assert torch.equal(bound, own)
    truth = torch.autograd.grad(own.sum(), decoder)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours[len(encoder) :], truth, strict=True))
    torch.manual_seed(0)
    traces = run(made, enter(made, entries, {"x": mask}), 5)
    whole = ppvae.elbo()(made, each(traces.guide.nodes["x_a"]["value"]).flatten(0, 1)).reshape(5, -1).mean(0)
    truth = torch.autograd.grad(whole.sum(), encoder)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours[: len(encoder)], truth, strict=True))


def test_on_completed_rows_it_trains_staged_bit_for_bit_as_eager_and_complete_rows_are_a_plain_vae():
    ends = []
    for compile in ("auto", "off"):
        made = small()
        entries, mask = data(made, rows=25)
        mask[0] = True
        result = ppvae.fit(
            made, entries, {"x": mask}, objective=ppvae.completed_rows(), epochs=3, batch_size=10, compile=compile
        )
        assert result.step.startswith("staged" if compile == "auto" else "eager")
        ends.append(made.state_dict().values())
    assert all(map(torch.equal, *ends))
    torch.manual_seed(0)
    bound = ppvae.completed_rows(1)(made, entries)
    torch.manual_seed(0)
    assert torch.equal(bound, ppvae.elbo(1)(made, entries))
    with pytest.raises(ppvae.Problem, match="particles"):
        ppvae.completed_rows(0)


# --- one row, refined -------------------------------------------------------------------------------------------------


def test_what_refining_one_row_gains_is_printed(capsys):
    made = pair("vae", features=5, hidden=(16,), likelihood="normal")
    entries, mask = data(made)
    row, seen = entries["x"][:1], mask[:1]
    refined, found = ppvae.refine(made, row, seen), ppvae.gaps(made, row, seen)
    with capsys.disabled():
        print(
            f"\n  one row: ELBO {float(refined.before):.3f} before, {float(refined.after):.3f} after refining; amortization gap "
            f"{float(found.amortization):.3f}, approximation gap {float(found.approximation):.3f} nats"
        )
    assert refined.after > refined.before and found.amortization > 0


def test_gibbs_sampling_and_export_take_the_latents_of_the_story_alone():
    made = pair("imputation_mixture", hidden=(8,), components=3, rounds=2)
    entries, mask = data(made, rows=6)
    post = ppvae.condition(made, entries, {"x": mask})
    assert post.sample(2).keys() == {"z"}
    assert {str(name) for name in post.to_datatree(2)["posterior"].data_vars} == {"z"}
    assert post.gibbs(2, burn_in=1, gap=1, metropolis=False).latents.keys() == {"z"}


def test_a_guide_that_imputes_nothing_cannot_learn_from_completed_rows():
    made = pair("vae", hidden=(8,))
    entries, mask = data(made)
    with pytest.raises(ppvae.Problem, match="imputes nothing"):
        ppvae.completed_rows()(made, entries, {"x": mask})


def test_what_is_no_encoder_learns_once_and_covariates_go_with_their_rows():
    """A prior whose loc hangs on a covariate: its gradient is that of the mixture's own bound."""

    class Prior(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.5))

    class Linear(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.linear = nn.Linear(inputs, outputs)

    def model(prior, decoder, x=None, mask=True, *, age, size=1):
        with pyro.plate("data", len(age), dim=-2):
            z = pyro.sample("z", dist.Normal((prior.slope * age)[:, None, None], 1.0).to_event(1))
            with pyro.plate("features", 3, dim=-1), poutine.mask(mask=mask):
                return pyro.sample("x", dist.Normal(decoder.linear(z.squeeze(-2)), 1.0), obs=x)

    def encode(encoder, x):
        return dist.Normal(encoder.linear(x).unsqueeze(-2), 0.8).to_event(1)

    def guide(encoder, decoder, x, mask=True):
        with pyro.plate("data", len(x), dim=-2):
            start, q = dist.Normal(x.new_zeros(1, 1), 1.0).to_event(1), partial(encode, encoder)
            if isinstance(mask, bool):
                pyro.sample("z", q(x))
                return
            drawn = Imputations(q, lambda z: dist.Normal(decoder.linear(z), 1.0), start, x, mask, 3, 2)
            x_a = pyro.sample("x_a", drawn, infer={"is_auxiliary": True})
            pyro.sample("z", Mixture(q(each(x_a))))

    torch.manual_seed(0)
    made = ppvae.Pair(model, guide, prior=Prior(), decoder=Linear(1, 3), encoder=Linear(3, 1))
    entries, mask = {"x": torch.randn(6, 3), "age": torch.linspace(-1, 2, 6)}, torch.rand(6, 3) > 0.4
    found = []
    for objective in (ppvae.completed_rows(6), ppvae.elbo(6)):
        torch.manual_seed(1)
        bound = objective(made, entries, {"x": mask}).sum()
        found.append((bound.detach(), *torch.autograd.grad(bound, [made.prior.slope, made.decoder.linear.weight])))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*found, strict=True))
    table, x_a = enter(made, entries), torch.randn(3, 6, 3)
    whole = _repeated(table, x_a)
    assert torch.equal(whole.values["age"], entries["age"].repeat(3)) and torch.equal(whole.values["x"][7], x_a[1, 1])
