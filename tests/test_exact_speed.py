"""The fast ways of exact inference give what the dense Gaussian gives: whatever selects, groups, chunks or eliminates."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from oracles import dense_impute_mean, dense_log_evidence, dense_posterior
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import ppvae
from ppvae import exact
from ppvae.errors import Problem
from ppvae.exact import chunks, linear_gaussian, patterns
from ppvae.exact.linear_gaussian import Precisions, pack, unpack
from ppvae.exact.solving import eliminate
from ppvae.exact.values import Seen, joined, unwatched

N = 30
SIZES = [
    (8, 3),
    (4, 6),
    (26, 21),
    (5, 23),
]  # (D, K): eliminated, eliminated with D < K, factorised, the same with D < K
KINDS = ["own", "groups", "rows", "all true", "everything"]


def story(D: int, K: int, rows: int = N, seed: int = 0, noise: float = 1.0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    W, loc = torch.randn(D, K, generator=g), 3 * torch.randn(D, generator=g)
    scale = noise * (0.3 + torch.rand(D, generator=g))
    x = torch.randn(rows, K, generator=g) @ W.mT + loc + scale * torch.randn(rows, D, generator=g)
    return W, loc, scale, x


def masks(kind: str, D: int, rows: int = N) -> tuple[torch.Tensor | bool, torch.Tensor]:
    """The mask as it is passed, and written out. Row 3 observes nothing, row 4 everything."""
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(rows, D, generator=g) > 0.5
    mask[3], mask[4] = False, True
    if kind == "groups":
        mask = mask[[3, 4, 0, 1]][torch.arange(rows) % 4]
    if kind == "rows":
        by_row = torch.rand(rows, 1, generator=g) > 0.4
        return by_row, by_row.expand(rows, D)
    if kind in ("all true", "everything"):
        mask = torch.ones_like(mask)
    return (True if kind == "everything" else mask), mask


def few_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(linear_gaussian, "CHUNK_BYTES", 12_000)
    monkeypatch.setattr(chunks, "repeated", lambda mask, most: patterns.repeated(mask, 100))


def close(ours: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("D", "K"), SIZES)
def test_every_way_agrees_with_the_dense_gaussian(D, K, kind, chunked, monkeypatch):
    inputs, (mask, entries) = story(D, K), masks(kind, D)
    if chunked:
        few_at_a_time(monkeypatch)
        assert linear_gaussian.chunk_rows(D, K, 8) < N / 2
    mean, covariance = dense_posterior(*inputs, entries)
    evidence, filled = dense_log_evidence(*inputs, entries), dense_impute_mean(*inputs, entries)
    for watched in (False, True):  # the plain way where something is differentiated, the fast one where nothing is
        given = [v.clone().requires_grad_(watched) for v in inputs]
        close(exact.log_evidence(*given, mask), evidence)
        close(exact.impute_mean(*given, mask), filled)
        q, p = exact.posterior(*given, mask), exact.mean_field(*given, mask)
        close(q.mean, mean)
        close(q.covariance_matrix, covariance)
        assert (q.scale_tril.triu(1) == 0).all()
        close(p.mean, mean)
        close(p.variance, 1 / torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1))
        assert q.mean.requires_grad == watched


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [3, 21])
def test_a_guides_posterior_has_the_same_bits_differentiated_or_not(K, kind, monkeypatch):
    """A staged step is compared with an eager one, and an objective may hold the guide's parameters fixed."""
    few_at_a_time(monkeypatch)
    (W, *rest), (mask, _) = story(8, K), masks(kind, 8)
    for infer in (exact.posterior, exact.mean_field):
        plain, watched = infer(W, *rest, mask), infer(W.clone().requires_grad_(), *rest, mask)
        assert torch.equal(plain.mean, watched.mean) and torch.equal(plain.variance, watched.variance)


@pytest.mark.parametrize("kind", ["own", "groups", "rows"])
@pytest.mark.parametrize("K", [3, 21])
def test_rows_that_observe_nothing_have_the_prior_and_no_evidence(K, kind):
    inputs, (mask, entries) = story(8, K), masks(kind, 8)
    empty = ~entries.any(-1)
    assert empty.any()
    assert (exact.log_evidence(*inputs, mask)[empty] == 0).all()
    q = exact.posterior(*inputs, mask)
    assert (q.mean[empty] == 0).all() and (q.scale_tril[empty] == torch.eye(K)).all()
    assert (exact.impute_mean(*inputs, mask)[empty] == inputs[1]).all()


@pytest.mark.parametrize("kind", ["own", "groups", "rows"])
@pytest.mark.parametrize("K", [3, 21])
@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf, 1e300])
def test_what_stands_in_a_missing_entry_changes_no_bit(K, kind, fill):
    W, loc, scale, x = story(8, K)
    mask, entries = masks(kind, 8)
    kept = x.clone()

    def answers(x):
        q = exact.posterior(W, loc, scale, x, mask)
        return (
            exact.log_evidence(W, loc, scale, x, mask),
            exact.impute_mean(W, loc, scale, x, mask),
            q.mean,
            q.scale_tril,
        )

    filled = torch.where(entries, x, fill)
    for one, other in zip(answers(x), answers(filled), strict=True):
        assert torch.equal(one, other)
    for given, before in ((x, kept), (filled, torch.where(entries, x, fill))):  # nothing is written into x
        assert torch.equal(given.view(torch.int64), before.view(torch.int64))
    assert not exact.impute_mean(W, loc, scale, x, mask)._is_view()


@pytest.mark.parametrize("K", [3, 21])
def test_what_is_observed_comes_back_bit_for_bit_and_what_is_not_a_number_is_not_hidden(K):
    W, loc, scale, x = story(8, K)
    mask, _ = masks("own", 8)
    x[4, 0], x[4, 1], x[4, 2] = -0.0, 5e-324, 1e308
    filled = exact.impute_mean(W, loc, scale, x, mask)
    assert torch.equal(filled.view(torch.int64)[mask], x.view(torch.int64)[mask])
    x[4, 5] = math.nan  # row 4 observes everything
    evidence = exact.log_evidence(W, loc, scale, x, mask)
    assert evidence[4].isnan() and evidence[torch.arange(N) != 4].isfinite().all()
    with pytest.raises(ValueError, match="loc"):
        exact.posterior(W, loc, scale, x, mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_selection_by_bits_is_where(dtype):
    g = torch.Generator().manual_seed(0)
    value, other = torch.randn(2, 7, 5, generator=g).to(dtype)
    value[0, 0], value[1, 1], value[2, 2] = math.nan, -0.0, math.inf
    for mask in (torch.rand(7, 5, generator=g) > 0.5, torch.rand(7, 1, generator=g) > 0.5):
        fast, slow = (
            Seen(mask, torch.rand(5, generator=torch.Generator().manual_seed(3)).to(dtype), b) for b in (True, False)
        )
        for ours, wanted in (
            (fast.keep(value), slow.keep(value)),
            (fast.choose(value, other), slow.choose(value, other)),
            (fast.weights, slow.weights),
        ):
            assert ours.dtype == dtype and torch.equal(ours.view(torch.int8), wanted.view(torch.int8))
        for strided in (value.mT.contiguous().mT, value[:, [1]].expand(7, 5)):
            assert torch.equal(fast.keep(strided).nan_to_num(9), slow.keep(strided).nan_to_num(9))


def test_elimination_solves_and_gives_the_determinant_also_where_latents_nearly_coincide():
    A = torch.randn(50, 9, 30, dtype=torch.float64)
    A[:, 1] = A[:, 0] + 1e-4 * A[:, 1]
    P, b = torch.eye(9) + 10_000 * A @ A.mT, torch.randn(50, 9)
    m, half_log_det = eliminate(pack(P), b)
    assert torch.linalg.cond(P).min() > 1e5
    close((P @ m.unsqueeze(-1)).squeeze(-1), b, 1e-9)
    close(half_log_det, 0.5 * P.logdet())
    close(unpack(pack(P), 9), P)


def test_single_precision_keeps_its_digits_when_the_noise_is_small():
    for K in (3, 21):
        inputs = [v.float() for v in story(200, K, noise=0.01)]
        mask, _ = masks("own", 200)
        double = exact.log_evidence(*(v.double() for v in inputs), mask)
        single = exact.log_evidence(*inputs, mask)
        assert single.dtype == torch.float32 and ((single - double).abs() <= 2e-5 * double.abs()).all()


def test_inputs_of_other_layouts_and_dtypes():
    W, loc, scale, x = story(8, 3)
    mask, _ = masks("own", 8)
    wanted = exact.log_evidence(W, loc, scale, x, mask)
    apart = torch.stack([x, x], -1).flatten(-2)[:, ::2]
    close(exact.log_evidence(W.mT.contiguous().mT, loc, scale, apart, mask.mT.contiguous().mT), wanted)
    whole = x.round()
    close(
        exact.impute_mean(W, loc, scale, whole.long(), mask), exact.impute_mean(W, loc, scale, whole, mask), 1e-12
    )  # integers
    one = torch.tensor(0.5)
    for verb in (exact.log_evidence, exact.impute_mean):  # one loc and one scale for all features
        close(verb(W, one, one, x, mask), verb(W, one.expand(8), one.expand(8), x, mask))
    with torch.inference_mode():
        close(exact.log_evidence(W, loc, scale, x, mask), wanted)
    assert exact.log_evidence(W, loc, scale, x[:0], mask[:0]).shape == (0,)
    assert exact.impute_mean(W, loc, scale, x[:0], mask[:0]).shape == (0, 8)


def test_a_story_without_a_posterior_is_refused():
    W, loc, scale, x = story(8, 3)
    mask, _ = masks("own", 8)
    for broken in (
        (W.fill_diagonal_(math.nan), loc, scale),
        (W.nan_to_num(), loc, scale.index_fill(0, torch.tensor(2), 0)),
    ):
        with pytest.raises(Problem, match="not finite, or a scale"):
            exact.log_evidence(*broken, x, mask)


def test_the_posterior_is_a_multivariate_normal_like_any_other():
    W, loc, scale, x = story(8, 3)
    q = exact.posterior(W, loc, scale, x, masks("own", 8)[0])
    plain = torch.distributions.MultivariateNormal(q.loc, scale_tril=q.scale_tril)
    z = q.rsample((2,))
    assert torch.equal(q.log_prob(z), plain.log_prob(z)) and torch.equal(q.entropy(), plain.entropy())
    assert (torch.distributions.kl_divergence(q, plain).abs() < 1e-12).all()
    assert q.expand((2, N)).batch_shape == (2, N)
    assert torch.equal(pickle.loads(pickle.dumps(q)).mean, q.mean)
    with pytest.raises(ValueError):
        q.log_prob(z[..., :2])


# --- derivatives, transforms, traces ---


def small_story(kind: str, K: int) -> tuple[list[torch.Tensor], torch.Tensor | bool]:
    D, rows = 4, 5
    inputs = [v.requires_grad_() for v in story(D, K, rows)]
    return inputs, masks(kind, D, rows)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["log_evidence", "impute_mean", "posterior"])
def test_gradients_of_both_modes_are_those_of_finite_differences(verb, kind, monkeypatch):
    inputs, mask = small_story(kind, 2)
    monkeypatch.setattr(linear_gaussian, "CHUNK_BYTES", 3000)  # three chunks

    def f(*given):
        answer = getattr(exact, verb)(*given, mask)
        return (answer.mean, answer.scale_tril) if verb == "posterior" else answer

    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)


def test_second_derivatives_are_those_of_finite_differences():
    inputs, mask = small_story("own", 2)  # one row observes nothing
    assert torch.autograd.gradgradcheck(lambda *given: exact.log_evidence(*given, mask), inputs)


def test_transforms_see_what_autograd_sees():
    inputs, mask = small_story("own", 2)

    def total(W, loc, scale, x):
        return exact.log_evidence(W, loc, scale, x, mask).sum() + exact.impute_mean(W, loc, scale, x, mask).sin().sum()

    wanted = torch.autograd.grad(total(*inputs), inputs)
    plain = [v.detach() for v in inputs]
    for ours, other in zip(torch.func.grad(total, argnums=(0, 1, 2, 3))(*plain), wanted, strict=True):
        close(ours, other)
    with torch.no_grad():  # a transform asks for its own gradient
        tangents = [torch.randn_like(v) for v in plain]
        _, slope = torch.func.jvp(total, tuple(plain), tuple(tangents))
    close(slope, sum((a * b).sum() for a, b in zip(tangents, wanted, strict=True)))
    rows = torch.stack([mask, ~mask])
    mapped = torch.func.vmap(lambda m: exact.log_evidence(*plain, m))(rows)
    close(mapped, torch.stack([exact.log_evidence(*plain, m) for m in rows]))


@pytest.mark.parametrize("K", [3, 21])
def test_staging_freezes_no_pattern(K):
    W, loc, scale, x = story(8, K)
    grouped, _ = masks("groups", 8)
    own, _ = masks("own", 8)

    def program(x, mask):
        q = exact.posterior(W, loc, scale, x, mask)
        return (
            exact.log_evidence(W, loc, scale, x, mask),
            exact.impute_mean(W, loc, scale, x, mask),
            q.mean,
            q.scale_tril,
        )

    validate = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        staged = make_fx(program)(x, grouped)
    finally:
        torch.distributions.Distribution.set_default_validate_args(validate)
    for mask in (grouped, own, ~own):
        for ours, eager in zip(staged(x, mask), program(x, mask), strict=True):
            close(ours, eager, 1e-12)


def test_whether_anybody_watches():
    x = torch.ones(2)
    assert unwatched(x) and unwatched(x, x > 0)
    w = x.clone().requires_grad_()
    assert not unwatched(x, w)
    with torch.no_grad():
        assert unwatched(w)
    seen = []
    make_fx(lambda v: seen.append(unwatched(v)) or v + 1)(x)
    torch.func.grad(lambda v: seen.append(unwatched(v)) or v.sum())(x)
    torch.func.vmap(lambda v: seen.append(unwatched(v)) or v + 1)(x)
    torch.func.jvp(lambda v: seen.append(unwatched(v)) or v + 1, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        seen.append(unwatched(torch.autograd.forward_ad.make_dual(x, x)))
    assert seen and not any(seen)


# --- patterns ---


def test_patterns_that_rows_share_are_found():
    g = torch.Generator().manual_seed(0)
    several = torch.rand(300, 12, generator=g) > 0.5
    for which in (torch.arange(1000) % 300, torch.arange(1000) // 4, torch.randint(0, 3, (1000,), generator=g)):
        mask = several[which]
        found, numbers = patterns.repeated(mask, 1000)
        assert torch.equal(found[numbers], mask)
        assert len(found) == len(torch.unique(mask, dim=0))
    assert patterns.repeated(several[torch.arange(1000) % 300], 100) is None  # too many
    assert patterns.repeated(torch.rand(1000, 30, generator=g) > 0.5, 1000) is None  # each its own
    state = torch.random.get_rng_state()
    patterns.repeated(mask, 1000)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_patterns_of_the_same_key_are_not_taken_for_one(monkeypatch):
    monkeypatch.setattr(patterns, "_keys", lambda mask: mask.sum(-1).double())
    W, loc, scale, x = story(8, 3)
    mask, entries = masks("own", 8)
    assert patterns.repeated(mask, 100) is None
    close(exact.log_evidence(W, loc, scale, x, mask), dense_log_evidence(W, loc, scale, x, entries))


@pytest.mark.parametrize(("kind", "precisions"), [("groups", 4), ("rows", 2), ("own", N), ("everything", 0)])
def test_a_shared_pattern_is_factorised_once(kind, precisions, monkeypatch):
    inputs, (mask, _) = story(8, 3), masks(kind, 8)
    rows, packed = [], Precisions.packed
    monkeypatch.setattr(
        Precisions, "packed", lambda self, weights, **o: (rows.append(len(weights)), packed(self, weights, **o))[1]
    )
    exact.log_evidence(*inputs, mask)
    assert sum(rows) == precisions
    rows.clear()
    inputs[0].requires_grad_()
    exact.log_evidence(*inputs, mask)  # with a gradient no value is read
    assert sum(rows) == (N if kind == "groups" else precisions)


# --- memory ---


class Largest(TorchDispatchMode):
    """The largest tensor that an operation made, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func)
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor) and not any(
                v in name for v in ("view", "split", "slice", "detach", "select.int", "expand", "alias", "empty")
            ):
                self.numel = max(self.numel, t.numel())
        return out


@pytest.mark.parametrize("kind", ["own", "groups", "rows", "everything"])
def test_temporaries_do_not_grow_with_the_rows(kind, monkeypatch):
    monkeypatch.setattr(linear_gaussian, "CHUNK_BYTES", 100_000)
    largest = {}
    for rows in (500, 2000):
        inputs, (mask, _) = story(8, 21, rows), masks(kind, 8, rows)
        with Largest() as seen:
            exact.log_evidence(*inputs, mask)
        largest[rows] = seen.numel
    assert linear_gaussian.chunk_rows(8, 21, 8) < 30
    assert largest[500] <= 30 * 8 * 21 and largest[2000] <= max(largest[500], patterns.ROWS * 8)


def test_answers_of_chunks_are_put_where_they_belong():
    pieces = [(torch.arange(3.0), torch.ones(3, 2)), (torch.arange(2.0), torch.zeros(2, 2))]
    a, b = joined(iter(pieces), 5)
    assert a.tolist() == [0, 1, 2, 0, 1] and b.sum() == 6 and b.shape == (5, 2)
    whole = joined(iter(pieces[:1]), 3)
    assert whole[0] is pieces[0][0]
    leaf = torch.ones(3, 2, requires_grad=True)
    (c,) = joined(iter([(leaf * 2,), (torch.zeros(2, 2),)]), 5)
    assert torch.autograd.grad(c.sum(), leaf)[0].sum() == 12


@pytest.mark.parametrize("K", [20, 21])
def test_what_rounding_leaves_nothing_of_is_refused_and_not_answered(K):
    """Little noise in float32: eliminated or factorised, there is no answer, and none is given."""
    g = torch.Generator().manual_seed(0)
    W, scale, loc = torch.randn(30, K, generator=g).float(), torch.full((30,), 1e-3).float(), torch.zeros(30).float()
    x = torch.randn(40, K, generator=g).float() @ W.mT
    mask = torch.rand(40, 30, generator=g) < 0.6
    for answer in (exact.impute_mean, exact.log_evidence):
        with pytest.raises((torch.linalg.LinAlgError, RuntimeError), match="positive-definite"):
            answer(W, loc, scale, x, mask)
        assert answer(W.double(), loc.double(), scale.double(), x.double(), mask).isfinite().all()


def test_a_mask_whose_true_has_another_byte_is_the_same_mask():
    W, loc, scale, x = story(8, 3)
    mask, _ = masks("own", 8)
    other = (mask.to(torch.uint8) * 255).view(torch.bool)
    assert torch.equal(exact.log_evidence(W, loc, scale, x, other), exact.log_evidence(W, loc, scale, x, mask))
    assert torch.equal(exact.impute_mean(W, loc, scale, x, other), exact.impute_mean(W, loc, scale, x, mask))
    made = ppvae.make("factor_analysis_exact", features=8, latents=3)
    close(ppvae.condition(made, x, other).log_evidence(), ppvae.condition(made, x, mask).log_evidence())


def test_a_scale_whose_square_does_not_fit_is_refused():
    W, loc, scale, x = (t.float() for t in story(8, 3))
    scale[0] = 1e-30
    mask, _ = masks("own", 8)
    with pytest.raises(ppvae.Problem, match="does not fit into torch.float32"):
        exact.log_evidence(W, loc, scale, x, mask)
