"""Posterior matching ends where the closed forms say: the exact mean, and the marginal variances."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import linear_gaussian, pair
from torch import nn

import ppvae
from ppvae import exact
from ppvae.door import enter

HIDDEN = torch.tensor([True, False, True, True, False, True])  # what stays visible


class Line(nn.Module):
    """q(z | x_m) = N(A x_m + b, diag s^2)."""

    def __init__(self, D, K):
        super().__init__()
        self.A, self.b, self.log_s = (nn.Parameter(torch.zeros(shape)) for shape in ((K, D), (K,), (K,)))


def guide(line, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        loc = torch.where(torch.as_tensor(mask), x, 0.0) @ line.A.T + line.b
        pyro.sample("z", dist.Normal(loc.unsqueeze(-2), line.log_s.exp()).to_event(1))


def visible(x):
    return HIDDEN.expand_as(x)


def under_the_same_mask(made, x, mask=None):
    table = enter(made, x, mask)
    return ppvae.elbo()(made, replace(table, masks={"x": visible(table.values["x"])}))


def ends(objective, x, epochs=80):
    """The guide's mean map and variances after a fit, on rows of factor analysis whose posterior has correlated latents."""
    teacher, _, _ = linear_gaussian(D=6, K=2)
    student = ppvae.Pair(teacher._functions["model"], guide, decoder=teacher.decoder, line=Line(6, 2))
    student.decoder.requires_grad_(False)
    result = ppvae.fit(student, x, objective=objective(teacher), epochs=epochs, batch_size=500, learning_rate=0.05)
    assert result.step == "staged"  # and compared with the eager step, bit for bit
    return student.line


def test_a_factorised_gaussian_ends_with_the_marginal_variances_and_under_the_elbo_with_the_conditional_ones():
    made, _, _ = linear_gaussian(D=6, K=2)
    with torch.no_grad():
        x = made.model(size=4000)
    d, mask = made.decoder, visible(x)
    q = exact.posterior(d.W, d.loc, d.scale, x, mask)
    marginal = q.covariance_matrix[0].diagonal().detach()
    conditional = (1 / q.precision_matrix[0].diagonal()).detach()
    assert (marginal / conditional).max() > 1.2  # they differ visibly
    matched = ends(lambda teacher: ppvae.posterior_matching(teacher, visible), x)
    mean = (torch.where(mask, x, 0.0) @ matched.A.T + matched.b).detach()
    spread = q.mean.detach().var(0)
    assert ((mean - q.mean.detach()).square().mean(0) < 0.005 * spread).all()
    # a variance from 4,000 rows, whose draws are new in each of many epochs at a falling rate
    assert (matched.log_s.exp().square() / marginal - 1).abs().max() < 5 * (2 / 4000) ** 0.5
    bound = ends(lambda teacher: under_the_same_mask, x)
    assert (bound.log_s.exp().square() / conditional - 1).abs().max() < 0.03


def test_with_the_exact_guide_the_value_is_the_mean_log_density():
    made, x, mask = linear_gaussian(N=6)
    d = made.decoder
    q = exact.posterior(d.W, d.loc, d.scale, x, mask)
    objective = ppvae.posterior_matching(made, lambda x: torch.ones_like(x, dtype=torch.bool))
    found = objective(made, x.repeat(600, 1), mask.repeat(600, 1)).detach().reshape(600, 6)
    error = found.std(0) / 600**0.5
    assert ((found.mean(0) + q.entropy()).abs() < 5 * error).all()  # E log q = - H


def test_what_is_missing_already_stays_missing_and_no_gradient_leaves_the_guide():
    made, x, mask = linear_gaussian("factor_analysis_masked", N=12)
    objective = ppvae.posterior_matching(linear_gaussian(N=12)[0], lambda x: torch.rand_like(x) > 0.3)
    values = []
    for fill in (0.0, 1e6):
        torch.manual_seed(0)
        values.append(objective(made, torch.where(mask, x, fill), mask))
    assert torch.equal(*values)
    values[0].sum().backward()
    assert all(p.grad is None for p in made.decoder.parameters()) and made.encoder is not None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in made.encoder.parameters())
    assert all(p.grad is None for p in objective.teacher.parameters())


@pytest.mark.parametrize("law", [lambda x: 0.5, lambda x: x, lambda x: torch.ones(3, 3, dtype=torch.bool)])
def test_a_law_that_gives_no_mask_is_refused(law):
    made, x, mask = linear_gaussian(N=6)
    with pytest.raises(ppvae.Problem, match="the law of missingness gave"):
        ppvae.posterior_matching(made, law)(made, x, mask)


def test_a_teacher_of_other_latents_is_refused():
    made, teacher = pair("two_layer"), pair("vae")
    with pytest.raises(ppvae.Problem, match="same latents"):
        ppvae.posterior_matching(teacher, lambda x: torch.rand_like(x) > 0.5)(made, torch.ones(4, 9))
