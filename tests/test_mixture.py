"""Mixture guides: the density and the draws of a mixture, and a gap that one Gaussian cannot close."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from examples import linear_gaussian
from pyro import poutine
from torch import nn

import ppvae
from ppvae import exact
from ppvae.nn import Mixture


def normals(A, N=3, K=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    loc, scale = 2 * torch.randn(A, N, 1, K, generator=g), 0.3 + torch.rand(A, N, 1, K, generator=g)
    return dist.Normal(loc, scale).to_event(1)


def test_the_density_is_the_mean_of_the_components_densities():
    parts, z = normals(4), torch.randn(5, 3, 1, 2)
    expected = torch.stack([dist.Normal(p.mean, p.stddev).to_event(1).log_prob(z) for p in rows_of(parts)]).logsumexp(0)
    for q in (Mixture(parts), Mixture(parts).expand((5, 3, 1))):
        assert (q.log_prob(z) - expected + math.log(4)).abs().max() < 1e-12
        assert q.event_shape == (2,) and (q.mean - parts.mean.mean(0)).abs().max() < 1e-12


def rows_of(parts):
    base = parts.base_dist
    return [dist.Normal(loc, scale).to_event(1) for loc, scale in zip(base.loc, base.scale, strict=True)]


@pytest.mark.parametrize("P", [1, 3, 4, 10])
def test_draws_come_from_the_components_in_turn_and_each_has_the_law_of_the_mixture(P):
    far = dist.Normal(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 1, 1), 0.01).to_event(1)
    q, times = Mixture(far).expand((P, 3, 1)), torch.zeros(P, 4)
    for _ in range(400):
        which = q.rsample()[:, 0, 0, 0].round().long()
        counts = torch.bincount(which, minlength=4)
        assert counts.max() - counts.min() <= 1
        times[torch.arange(P), which] += 1
    error = math.sqrt(400 * 0.25 * 0.75)
    assert ((times - 100).abs() < 5 * error).all()


@pytest.mark.parametrize("particles", [1, 2, 5])
def test_of_exact_components_the_bound_is_the_evidence(particles):
    made, x, mask = linear_gaussian(N=9)

    def guide(decoder, x, mask=True):
        q = exact.posterior(decoder.W, decoder.loc, decoder.scale, x, mask)
        parts = dist.MultivariateNormal(q.loc[:, None], scale_tril=q.scale_tril[:, None])
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", Mixture(parts.expand((3, len(x), 1))))

    mixed = ppvae.Pair(made._functions["model"], guide, decoder=made.decoder)
    truth = ppvae.condition(made, x, mask).log_evidence()
    for objective in (ppvae.elbo(particles), ppvae.iw_elbo(particles)):
        assert (objective(mixed, x, mask) - truth).abs().max() < 1e-10


# --- a mixture of two factor analysers: the second column, where it is missing, may have been either's --------

NOISE, APART, SPREAD = 0.3, 2.0, 0.5


def analysers(theta, x=None, mask=True, *, size=1):
    """z = (u, v): u ~ N(0, 1), v ~ N(-2, .5) or N(2, .5); x = z + noise."""
    loc = torch.stack([torch.stack([theta.zero, theta.zero + side]) for side in (-APART, APART)])[:, None]
    scale = torch.stack([theta.zero + 1, theta.zero + SPREAD])
    with pyro.plate("data", size if x is None else len(x), dim=-2):
        parts = dist.Normal(loc.squeeze(1), scale).to_event(1)  # (2,) + (2,)
        prior = dist.MixtureSameFamily(dist.Categorical(logits=theta.zero.expand(2)), parts)
        z = pyro.sample("z", prior.expand((1, 1)))
        with pyro.plate("features", 2, dim=-1), poutine.mask(mask=mask):
            return pyro.sample("x", dist.Normal(z.squeeze(-2), NOISE), obs=x)


class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(()))


class Encoder(nn.Module):
    """Each component is linear in the row and its mask; their locs begin apart."""

    def __init__(self, A):
        super().__init__()
        self.linear = nn.Linear(4, 4 * A)
        with torch.no_grad():
            self.linear.bias.view(A, 4)[:, :2] += torch.linspace(-1.0, 1.0, A)[:, None] * (A > 1)
        self.A = A

    def forward(self, x, mask=True):
        seen = torch.full_like(x, mask) if isinstance(mask, bool) else mask.to(x)
        h = self.linear(torch.cat([x * seen, seen], -1)).unflatten(-1, (self.A, 1, 4)).movedim(1, 0)  # (A, N, 1, 4)
        loc, spread = h.chunk(2, -1)
        return Mixture(dist.Normal(loc, nn.functional.softplus(spread) + 0.01).to_event(1))


def guide(encoder, x, mask=True):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", encoder(x, mask))


def mixed_pair(A, seed=0):
    torch.manual_seed(seed)
    return ppvae.Pair(analysers, guide, theta=Zero(), encoder=Encoder(A))


def evidence(x, mask):
    """log p(x_o) by hand: a column is Normal, or an even mixture of two."""
    first = dist.Normal(0.0, math.hypot(1, NOISE)).log_prob(x[:, 0])
    wide = math.hypot(SPREAD, NOISE)
    second = torch.stack([dist.Normal(side, wide).log_prob(x[:, 1]) for side in (-APART, APART)]).logsumexp(0)
    return torch.where(mask[:, 0], first, 0.0) + torch.where(mask[:, 1], second - math.log(2), 0.0)


GRID = torch.linspace(-8, 8, 4001, dtype=torch.float64)


def test_the_bound_is_unbiased_for_the_mixtures_own_with_fewer_draws_than_components_too():
    """Of one column, with the other missing, so that quadrature over v alone is the truth."""
    made = mixed_pair(3)
    x, mask = torch.tensor([[0.0, 1.0], [0.0, -2.5]]), torch.tensor([[False, True]]).expand(2, 2)
    q = made.encoder(x, mask)
    parts = q.components.base_dist
    loc, scale = parts.loc[:, :, 0], parts.scale[:, :, 0]  # (A, N, K)
    # E_q[log p - log q] over both coordinates by quadrature on a coarser square
    axis = torch.linspace(-7, 7, 561)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[:, :, None, None]  # (G, G, 1, 1, 2)
    log_q = dist.Normal(loc, scale).log_prob(z).sum(-1).logsumexp(-2) - math.log(3)
    log_p = dist.Normal(0.0, 1.0).log_prob(z[..., 0, 0]) - math.log(2)
    log_p = log_p + torch.stack([dist.Normal(s, SPREAD).log_prob(z[..., 0, 1]) for s in (-APART, APART)]).logsumexp(0)
    log_joint = log_p + dist.Normal(z[..., 0, 1], NOISE).log_prob(x[:, 1])
    truth = torch.trapezoid(torch.trapezoid(log_q.exp() * (log_joint - log_q), axis, dim=0), axis, dim=0).detach()
    for particles in (1, 2, 3, 7):
        torch.manual_seed(1)
        found = torch.stack([ppvae.elbo(particles)(made, x, mask).detach() for _ in range(1500)])
        error = found.std(0) / 1500**0.5
        assert ((found.mean(0) - truth).abs() < 5 * error).all(), particles


def test_two_components_close_the_gap_that_one_cannot():
    torch.manual_seed(3)
    with torch.no_grad():
        x = mixed_pair(1).model(size=1000)
    mask = torch.ones(1000, 2, dtype=torch.bool)
    mask[::2, 1] = False
    truth = evidence(x, mask)
    gaps = {}
    for A in (1, 2):
        made = mixed_pair(A)
        result = ppvae.fit(made, x, mask, objective=ppvae.elbo(4), epochs=60, batch_size=100, learning_rate=0.02)
        assert result.step == "staged"
        with torch.no_grad():
            gap = truth - ppvae.elbo(200)(made, x, mask)
        gaps[A] = (float(gap[::2].mean()), float(gap[1::2].mean()))
    # One Gaussian sits on one of two modes that lie far apart, log 2 below, or between them; two have each their own.
    assert gaps[1][0] > math.log(2) - 0.05
    assert -0.01 < gaps[2][0] < 0.03
    assert abs(gaps[1][1] - gaps[2][1]) < 0.02  # where both columns are seen there is one mode, and both do alike


@pytest.mark.parametrize("parts", [dist.Normal(torch.zeros(3), 1.0), dist.Bernoulli(torch.full((2, 3, 1), 0.5))])
def test_what_is_no_mixture_is_refused(parts):
    with pytest.raises(ppvae.Problem, match="a mixture of a"):
        Mixture(parts)
