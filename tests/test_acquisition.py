"""What to observe next: the gain of an entry against closed forms, and the curve of what is bought."""

import pytest
import torch
from examples import linear_gaussian, pair
from torch.distributions import MultivariateNormal

import ppvae
from ppvae import exact
from ppvae.evaluate import acquire, gain


def conditional(W, scale, observed):
    """Covariance of x given x_o, dense, observed entries left as rows of 0."""
    covariance = W @ W.T + torch.diag(scale**2)
    o = observed
    given = covariance[:, o] @ torch.linalg.inv(covariance[o][:, o]) if o.any() else covariance[:, o]
    return covariance - given @ covariance[o]


@pytest.mark.parametrize("target", [None, 3])
def test_the_closed_form_is_the_entropy_that_is_lost(target):
    """H(x_j | x_o) - H(x_j | x_o, z), or - H(x_j | x_o, x_t), of dense Gaussians."""
    made, x, mask = linear_gaussian(N=15, D=7, K=3)
    d = made.decoder
    if target is not None:
        mask[:, target] = False
    found = exact.gain(d.W, d.loc, d.scale, mask, target).detach()
    for row, seen in zip(found, mask, strict=True):
        C = conditional(d.W, d.scale, seen).detach()
        for j in range(7):
            if seen[j] or j == target:
                assert row[j].isnan()
                continue
            if target is None:
                expected = 0.5 * (C[j, j] / d.scale[j].detach() ** 2).log()
            else:
                both = C[[j, target]][:, [j, target]]
                one = [MultivariateNormal(torch.zeros(1), C[i, i].reshape(1, 1)).entropy() for i in (j, target)]
                expected = sum(one) - MultivariateNormal(torch.zeros(2), both).entropy()
            assert abs(float(row[j] - expected)) < 1e-10


@pytest.mark.parametrize("target", [None, 3])
def test_the_estimate_agrees_with_the_closed_form(target):
    made, x, mask = linear_gaussian(N=10, D=7, K=2)
    d = made.decoder
    if target is not None:
        mask[:, target] = False
    truth = exact.gain(d.W, d.loc, d.scale, mask, target).detach()
    torch.manual_seed(0)
    found = gain(made, x, mask, target=target, draws=500)
    open = ~truth.isnan()
    assert torch.equal(found.nats.isnan(), ~open)
    apart = (found.nats - truth)[open]
    assert (apart.abs() < 5 * found.error[open] + 0.04).all()  # its bias falls as 1 / S
    assert 0.3 < float((apart / found.error[open]).square().mean()) < 3
    if target is None:
        few = torch.stack([gain(made, x, mask, draws=8).nats for _ in range(30)])
        error = few.std(0) / 30**0.5
        assert ((few.mean(0) - truth)[open] < 5 * error[open]).all()  # a lower bound
        assert ((truth - few.mean(0))[open] > 5 * error[open]).any()  # with few draws a loose one


def test_the_gain_is_that_of_the_posterior_not_of_a_wrong_guide():
    """Draws are resampled by their weights: a guide that is too wide does not change the gain."""
    made, x, mask = linear_gaussian("factor_analysis_mean_imputation", N=6, D=5, K=1)
    d = made.decoder
    found = gain(made, x, mask, draws=400)
    truth = exact.gain(d.W, d.loc, d.scale, mask).detach()
    open = ~mask
    assert ((found.nats - truth)[open].abs() < 5 * found.error[open] + 0.1).all()


def test_greedy_order_is_that_of_the_closed_form():
    """Columns of very different worth: bought in the order in which the closed form has them."""
    made, x, _ = linear_gaussian(N=8, D=5, K=2)
    W = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.3]))[:, :2].clone()
    W[2:, 1] = torch.tensor([2.0, 0.8, 0.1])
    made.decoder.set_(W, torch.zeros(5), torch.ones(5))
    with torch.no_grad():
        x = made.model(size=8)
    mask = torch.zeros(8, 5, dtype=torch.bool)
    mask[:, 4] = True
    torch.manual_seed(0)
    bought = acquire(made, x, mask, steps=4, draws=200)
    seen = mask.clone()
    for column in bought.order:
        worth = exact.gain(made.decoder.W, made.decoder.loc, made.decoder.scale, seen).detach()
        best = worth.nan_to_num(-1).max(1)
        chosen = worth.gather(1, column[:, None]).squeeze(1)
        assert (best.values - chosen < 0.1).all()
        seen[torch.arange(8), column] = True
    assert bought.error.shape == (5,) and bought.error[-1] == 0 and bought.order.shape == (4, 8)


def test_buying_what_tells_most_beats_buying_at_random():
    made, _, _ = linear_gaussian(N=10, D=9, K=2)
    W = torch.zeros(9, 2)
    W[0], W[1], W[8] = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0]), torch.tensor([2.0, 2.0])
    made.decoder.set_(W, torch.zeros(9), torch.full((9,), 0.5))
    with torch.no_grad():
        x = made.model(size=60)
    mask = torch.zeros(60, 9, dtype=torch.bool)
    torch.manual_seed(0)
    best = acquire(made, x, mask, steps=2, target=8, draws=40)
    chance = acquire(made, x, mask, steps=2, target=8, draws=40, rule="random")
    assert set(best.order.flatten().tolist()) == {0, 1} and 8 not in chance.order
    assert best.error[2] < 0.5 * chance.error[2]
    # given both, only the noise of the two loadings' posteriors and of x_8 is left
    given = conditional(W, made.decoder.scale.detach(), torch.tensor([True, True] + [False] * 7))[8, 8]
    error = (2 / 60) ** 0.5 * given
    assert abs(best.error[2] - given) < 5 * error + 0.02


def test_a_row_that_is_bought_out_stays_as_it_is():
    made, x, _ = linear_gaussian(N=4, D=3, K=1)
    mask = torch.tensor([[True, True, False]] * 2 + [[False, False, True]] * 2)
    bought = acquire(made, x, mask, steps=3, draws=20, rule="random")
    assert (bought.order[1:, :2] == -1).all() and (bought.order[2] == -1).all() and (bought.error[2:] == 0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, x, m: gain(p, x), "nothing is missing"),
        (lambda p, x, m: gain(p, x, torch.ones_like(m)), "nothing is missing"),
        (lambda p, x, m: gain(p, x, m, target=9), "none of 8 columns"),
        (lambda p, x, m: gain(p, x, m, target=0), "observed in some rows"),
        (lambda p, x, m: gain(p, x, m, draws=1), "draws is 1"),
        (lambda p, x, m: gain(p, x, m, draws=0.5), "draws is 0.5"),
        (lambda p, x, m: acquire(p, x, m, steps=0), "steps is 0"),
        (lambda p, x, m: acquire(p, x, m, steps=1, rule="best"), "rule is 'best'"),
        (lambda p, x, m: acquire(p, x.where(m, torch.nan), m, steps=1), "x has missing entries"),
        (lambda p, x, m: exact.gain(p.decoder.W, p.decoder.loc, p.decoder.scale, m, 0), "observed in some rows"),
    ],
)
def test_what_cannot_be_answered_is_said(call, words):
    made, x, mask = linear_gaussian(N=6)
    mask[:, 1] = False
    with pytest.raises(ppvae.Problem, match=words):
        call(made, x, mask)


def test_any_pair_of_independent_features_has_a_gain():
    made = pair("vae")
    x = torch.bernoulli(torch.full((5, 9), 0.4))
    mask = torch.rand(5, 9) > 0.5
    mask[0] = False
    found = gain(made, x, mask, draws=50)
    assert (found.nats[~mask] > -5 * found.error[~mask] - 1e-9).all() and found.nats[mask].isnan().all()
    assert (found.nats[~mask] < 0.6931472).all()  # a bit tells at most a bit


def test_the_target_of_a_row_that_is_bought_out_is_not_bought():
    made, x, _ = linear_gaussian(N=4, D=3, K=1)
    mask = torch.tensor([[False, True, True]] * 2 + [[False, False, True]] * 2)
    bought = acquire(made, x, mask, steps=2, draws=20, target=0)
    assert (bought.order[0] == torch.tensor([-1, -1, 1, 1])).all() and (bought.order[1] == -1).all()
    assert (bought.error > 0).all()  # the target is never seen
