"""What every pair of the catalogue passes by being there."""

import copy
import math

import pyro
import pytest
import torch
from examples import COVARIATES, data, direct, other_sites, pair, seen
from oracles import dense_log_evidence
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO

import ppvae
from ppvae.door import enter
from ppvae.tracing.terms import is_point, weights_of
from ppvae.tracing.traces import is_global, run

NAMES = ppvae.names()


@pytest.fixture(params=NAMES)
def made(request):
    return pair(request.param)


def local(made, entries):
    traces = run(made, enter(made, entries))
    return not any(is_global(site) for _, site in traces.drawn())


def certain(made, entries):
    """Whether the guide's draws are points."""
    traces = run(made, enter(made, entries))
    return all(is_point(site["fn"]) for _, site in traces.drawn())


def log_weights(made, entries, masks, particles=1, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        return weights_of(run(made, enter(made, entries, masks), particles))


def test_check_passes(made):
    entries, mask = data(made)
    ppvae.check(made, entries, seen(made, entries, mask))
    if not other_sites(made, entries):  # a class that is never missing teaches no guide to find it
        ppvae.check(made, entries)


def test_story_and_guide_have_the_same_latents(made):
    entries, _ = data(made)
    traces = run(made, enter(made, entries))
    latents = [
        n
        for n, s in traces.model.nodes.items()
        if s["type"] == "sample" and not s["is_observed"] and not poutine.util.site_is_subsample(s)
    ]
    assert sorted(latents) == sorted(name for name, _ in traces.drawn()) and latents


def test_the_story_generates_and_stays_near_what_it_says(made):
    """The mean of many generated rows is the mean of the story's own conditional means, within 5 standard errors."""
    entries, _ = data(made, rows=4000)
    x = entries.pop("x")
    trace = poutine.trace(made.model).get_trace(size=4000, **entries)
    conditional = trace.nodes["x"]["fn"].mean.detach()
    if not any(
        is_global(s)
        for n, s in trace.nodes.items()
        if n not in ("x", "_INPUT", "_RETURN") and s["type"] == "sample" and not poutine.util.site_is_subsample(s)
    ):
        error = ((x.var(0) + conditional.var(0)) / 4000).sqrt()
        assert ((x.mean(0) - conditional.mean(0)).abs() < 5 * error + 1e-12).all()
    assert x.isfinite().all()


def test_a_gradient_reaches_every_parameter(made):
    entries, mask = data(made)
    ppvae.elbo()(made, entries, seen(made, entries, mask)).sum().backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_an_all_true_mask_changes_nothing(made):
    entries, mask = data(made)
    torch.manual_seed(0)
    without = ppvae.elbo()(made, entries)
    torch.manual_seed(0)
    assert torch.equal(without, ppvae.elbo()(made, entries, {"x": torch.ones_like(mask)}))


def test_the_mask_counts_exactly_the_observed_entries(made):
    """Given the same draw of the latents the likelihood term is the sum of the observed entries' densities."""
    entries, mask = data(made)
    torch.manual_seed(0)
    likelihood = ppvae.elbo().terms(made, entries, {"x": mask}).likelihood
    torch.manual_seed(0)
    site = run(made, enter(made, entries, {"x": mask})).model.nodes["x"]
    by_hand = (site["fn"].log_prob(torch.where(mask, entries["x"], made.fill("x"))) * mask).sum(-1)
    assert torch.allclose(likelihood, by_hand + of_the_others(made, entries, mask), atol=1e-10)


def of_the_others(made, entries, mask):
    """log p(seen | x) and log p(y | z) at the same draw: where the story says why entries are missing, the mask is data too,
    and so are labels and attributes, here complete."""
    torch.manual_seed(0)
    nodes, total = run(made, enter(made, entries, {"x": mask})).model.nodes, torch.zeros(len(mask))
    data = {"seen": mask, **{name: entries[name] for name in other_sites(made, entries)}}
    for name in data.keys() & nodes.keys():
        value, event = data[name].to(entries["x"]), nodes[name]["fn"].event_dim
        total = total + nodes[name]["fn"].log_prob(value.unsqueeze(-2) if event else value).sum(-1)
    return total


def test_an_all_false_row_adds_only_minus_kl(made):
    entries, mask = data(made)
    mask[0] = False
    torch.manual_seed(0)
    terms = ppvae.elbo().terms(made, entries, {"x": mask})
    others = of_the_others(made, entries, mask)[0]
    assert terms.likelihood[0] == others
    assert torch.equal(terms.elbo[0], others - sum(kl[0] for kl in terms.kl.values()))
    if made.exact:
        assert (terms.elbo[0] - others).abs() < 1e-10


def test_permuting_the_rows_permutes_the_log_weights(made):
    """The same draws go with the same rows: noise is permuted by giving each row one draw of its own, many times."""
    entries, mask = data(made, rows=3)
    if not local(made, entries):
        pytest.skip("a global latent: rows have no weights")
    order = torch.tensor([2, 0, 1])
    moved, masks = {k: v[order] for k, v in entries.items()}, seen(made, entries, mask)
    a = log_weights(made, entries, masks, particles=4000).exp()
    b = log_weights(made, moved, {k: m[order] for k, m in masks.items()}, particles=4000, seed=1).exp()
    error = ((a.var(0)[order] + b.var(0)) / 4000).sqrt()
    assert ((a.mean(0)[order] - b.mean(0)).abs() <= 5 * error + 1e-9 * a.mean(0)[order]).all()


def test_vectorised_and_looped_particles_agree(made):
    entries, mask = data(made, rows=4)
    if not local(made, entries):
        pytest.skip("a global latent: rows have no weights")
    masks = seen(made, entries, mask)
    together = log_weights(made, entries, masks, particles=3000)
    looped = torch.cat([log_weights(made, entries, masks, seed=s) for s in range(600)])
    if made.exact:
        assert (together - looped[0]).abs().max() < 1e-10
    error = (together.var(0) / 3000 + looped.var(0) / 600).sqrt()
    assert ((together.mean(0) - looped.mean(0)).abs() < 5 * error + 1e-10).all()


def test_the_bound_rises_with_particles_and_stays_below_the_truth(made):
    entries, mask = data(made, rows=30)
    if not local(made, entries):
        pytest.skip("a global latent: no importance-weighted bound")
    if certain(made, entries):
        pytest.skip("a guide without chance: a point has no density, and importance weights are refused")
    masks = seen(made, entries, mask)
    with torch.no_grad():
        bounds = {
            p: torch.stack([ppvae.iw_elbo(p)(made, entries, masks).mean() for _ in range(60)]) for p in (1, 8, 64)
        }
    low, middle, high = bounds.values()
    error = max(b.std() / math.sqrt(60) for b in bounds.values()) + 1e-12  # rounding, where nothing varies
    assert low.mean() < middle.mean() + 5 * error < high.mean() + 10 * error
    if not made.exact:
        assert high.mean() > low.mean() + 5 * error
    if hasattr(made.decoder, "W"):
        d = made.decoder
        exact = dense_log_evidence(d.W, d.loc, d.scale, entries["x"], mask).mean()
        assert high.mean() <= exact + 5 * error + 1e-10


def test_two_fits_in_one_process_both_train(made):
    entries, mask = data(made, rows=20)
    mask[0] = True
    for _ in range(2):
        fresh = pair(made._built[0])
        before = copy.deepcopy(fresh.state_dict())
        ppvae.fit(fresh, entries, seen(made, entries, mask), epochs=2, batch_size=10)
        assert all(not torch.equal(before[k], v) for k, v in fresh.state_dict().items())


def test_saved_and_loaded_it_gives_the_same_numbers(made, tmp_path):
    entries, mask = data(made)
    ppvae.save(made, tmp_path / "pair.pt")
    again = ppvae.load(tmp_path / "pair.pt")
    for one in (made, again):
        one.eval()
    torch.manual_seed(0)
    ours = ppvae.elbo(3)(made, entries, seen(made, entries, mask))
    torch.manual_seed(0)
    assert torch.equal(ours, ppvae.elbo(3)(again, entries, seen(made, entries, mask)))
    if local(made, entries) and not certain(made, entries):
        torch.manual_seed(0)
        evidence = ppvae.condition(made, entries, seen(made, entries, mask)).log_evidence(50)
        torch.manual_seed(0)
        assert torch.equal(evidence, ppvae.condition(again, entries, seen(made, entries, mask)).log_evidence(50))


def test_the_staged_step_equals_the_eager_step_bit_for_bit(made):
    """Over whole epochs with a smaller last batch, masks, and fresh batches."""
    entries, mask = data(made, rows=25)
    mask[0] = True
    ends = []
    for compile in ("auto", "off"):
        fresh = pair(made._built[0])
        result = ppvae.fit(
            fresh, entries, seen(made, entries, mask), epochs=4, batch_size=10, compile=compile, learning_rate=1e-2
        )
        assert result.step.startswith("staged" if compile == "auto" else "eager")
        ends.append(([r["bound"] for r in result.history], fresh.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1].values(), ends[1][1].values(), strict=True))


def test_stock_svi_trains_two_pairs_in_one_process(made):
    entries, mask = data(made)
    for one in (made, copy.deepcopy(made)):
        before = copy.deepcopy(one.state_dict())
        svi = SVI(one.model, one.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        for _ in range(2):
            assert math.isfinite(svi.step(**direct(made, entries, mask)))
        assert all(not torch.equal(before[k], v) for k, v in one.state_dict().items())


def test_predictive_and_condition_work(made):
    entries, mask = data(made, rows=5)
    given = {k: v for k, v in entries.items() if k != "x" and k not in other_sites(made, entries)}
    # parallel=True loses the plate dims of a global site on its way from guide to story (Pyro 1.9.2)
    draws = Predictive(made.model, guide=made.guide, num_samples=7, parallel=local(made, entries))(
        **direct(made, entries, mask)
    )
    assert {v.shape[0] for v in draws.values()} == {7}
    conditioned = poutine.trace(poutine.condition(made.model, {"x": entries["x"]})).get_trace(size=5, **given)
    assert conditioned.nodes["x"]["is_observed"]
    if not given:
        with pytest.raises(ppvae.Problem, match="without `size`"):
            poutine.condition(made.model, {"x": entries["x"]})()


def test_nuts_on_the_factor_analysis_story_finds_the_exact_posterior():
    made = pair("factor_analysis_exact", features=4, latents=1)
    entries, mask = data(made, rows=3)
    mcmc = MCMC(NUTS(made.model, jit_compile=False), num_samples=400, warmup_steps=100, disable_progbar=True)
    mcmc.run(entries["x"], mask)
    z = mcmc.get_samples()["z"].squeeze(-1).squeeze(-1)  # (S, N)
    q = ppvae.exact.posterior(made.decoder.W, made.decoder.loc, made.decoder.scale, entries["x"], mask)
    sd = q.variance.squeeze(-1).sqrt().detach()
    assert ((z.mean(0) - q.mean.squeeze(-1)).abs() < 5 * sd / math.sqrt(400 / 4)).all()  # an effective draw in four
    assert ((z.std(0) / sd - 1).abs() < 5 / math.sqrt(2 * 400 / 4)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_it_runs_on_cuda_and_agrees_with_the_cpu(made):
    entries, mask = data(made, rows=20)
    here = ppvae.elbo(2000)(made, entries, seen(made, entries, mask)).mean()
    there = ppvae.elbo(2000)(copy.deepcopy(made).cuda(), entries, seen(made, entries, mask)).mean()
    assert there.device.type == "cuda"
    assert abs(here - there.cpu()) < 0.05 * (1 + abs(here))
    ppvae.fit(made, entries, seen(made, entries, mask), epochs=2, batch_size=10, device="cuda")
    assert next(made.parameters()).is_cuda


def test_every_covariate_of_the_catalogue_has_an_example():
    needed = {name for n in NAMES for name, need in pair(n).entries.items() if need and name != "x"}
    assert needed == set(COVARIATES)
