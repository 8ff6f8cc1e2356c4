r"""Products of experts over the observed entries: q(z | x_o) from one term an entry, whatever is missing.

Observed entry j adds a term to the precision and one to the shift, both of K numbers; q is their product with N(0, I):

    diagonal experts     precision I + sum_j m_nj diag(d_j)     shift b_n = sum_j m_nj (x_nj - c_j) u_j
    rank-one experts     precision I + sum_j m_nj v_j v_j'      the same

For factor analysis rank-one experts are exact under every mask, at v_j = w_j / sqrt(psi_j), u_j = w_j / psi_j, c = loc
(`true_terms`); diagonal ones cannot be. The conjugate gradient goes from one to the other, step by step.

References: Williams & Agakov 2002, Products of Gaussians; Vedantam et al. 2018 (diagonal); Williams, Nash & Nazabal 2018.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact.linear_gaussian import checked, inverse_root, precision


def true_terms(W: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give v (D, K), u (D, K) and c (D,) with which rank-one experts are the exact posterior."""
    scale = scale.expand(len(W)).unsqueeze(-1)
    return W / scale, W / scale.square(), loc.expand(len(W))


def rank_one(v: Tensor, u: Tensor, c: Tensor, x: Tensor, mask: Tensor | bool = True) -> dist.MultivariateNormal:
    """Give the product of rank-one experts: v, u (D, K), c (D,), x (N, D) to batch (N,), event (K,)."""
    b, mask = _shift(v, u, c, x, mask)
    S = inverse_root(precision(v, mask))  # (K, K) or (N, K, K)
    mean = (S @ (S.mT @ b.unsqueeze(-1))).squeeze(-1)
    return dist.MultivariateNormal(mean, scale_tril=S.expand(len(x), -1, -1))


def diagonal(d: Tensor, u: Tensor, c: Tensor, x: Tensor, mask: Tensor | bool = True) -> dist.Independent:
    """Give the product of diagonal experts: d (D, K), not negative, u (D, K), c (D,) to batch (N,), event (K,)."""
    b, mask = _shift(d, u, c, x, mask)
    P = 1 + (d.sum(0) if mask is None else mask.to(d.dtype) @ d)  # (K,) or (N, K)
    return dist.Normal(b / P, P.rsqrt().expand_as(b)).to_event(1)


def conjugate_gradient(
    v: Tensor, u: Tensor, c: Tensor, x: Tensor, mask: Tensor | bool = True, *, depth: int
) -> dist.MultivariateNormal:
    r"""Give the product of rank-one experts as far as ``depth`` steps of conjugate gradient find it.

    The mean solves P m = b, preconditioned by D = diag(P), from D^-1 b. The covariance is the inverse that the steps
    have found: with the conjugate directions p_t (p_s' P p_t = 1 if s = t else 0),

    .. math:: C = \sum_t p_t p_t^\top + R D^{-1} R^\top, \quad R = I - \sum_t p_t p_t^\top P

    which is BFGS's inverse Hessian from D^-1, whose steps on a quadratic are those of the conjugate gradient. It is
    positive definite at every depth: D^-1 at 0, where this is the product of the experts diag(v_j)^2, and P^-1 at K.
    Where a row's residual vanishes before K steps (rounding, a block of latents that nothing observed speaks of), the
    coordinate of the largest unresolved variance gives the next direction. A step costs K^2 a row; the triangular factor
    that a draw needs, K^3.

    References: Hestenes & Stiefel 1952; Nazareth 1979, A relationship between the BFGS and conjugate gradient algorithms.

    Args:
        v, u, c, x, mask: as in `rank_one`.
        depth: number of steps; more than K change nothing.
    """
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 0:
        raise Problem(
            f"depth is {depth!r}", "a number of steps is a whole number, 0 or more", f"depth={v.shape[1]} is exact"
        )
    b, mask = _shift(v, u, c, x, mask)
    (N, K), eps = b.shape, torch.finfo(b.dtype).eps
    P = precision(v, mask).expand(N, K, K)
    D = P.diagonal(dim1=-2, dim2=-1)  # (N, K)
    mean = b / D
    residual = b - _times(P, mean)
    enough = (K * eps) ** 2 * (b.square() / D).sum(-1, keepdim=True)
    found, open_ = torch.zeros_like(P), torch.diag_embed(D.rsqrt())  # open_ = R D^-1/2: C = found + open_ open_'
    for _ in range(min(depth, K)):
        left = (residual.square() / D).sum(-1, keepdim=True)  # (N, 1)
        going = left > enough
        pivot = (open_.square().sum(-1) * D).argmax(-1, keepdim=True)
        unit = (torch.arange(K, device=b.device) == pivot).to(b.dtype) * D.sqrt()
        probe = torch.where(going, residual / torch.where(going, left, 1.0).sqrt(), unit)
        p = _times(open_, _times(open_.mT, probe))  # conjugate to all before it, whatever the probe
        y = _times(P, p)
        norm = (p * y).sum(-1, keepdim=True).sqrt()
        p, y = p / norm, y / norm
        step = (p * residual).sum(-1, keepdim=True)
        mean, residual = mean + step * p, residual - step * y
        found = found + p.unsqueeze(-1) * p.unsqueeze(-2)
        open_ = open_ - p.unsqueeze(-1) * _times(open_.mT, y).unsqueeze(-2)
    return dist.MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(found + open_ @ open_.mT))


def _shift(v: Tensor, u: Tensor, c: Tensor, x: Tensor, mask: Tensor | bool) -> tuple[Tensor, Tensor | None]:
    """The sum of the observed entries' shifts (N, K), and the mask: None (all observed) or (N, D)."""
    if u.shape != v.shape:
        raise Problem(
            f"the terms of the precision are {tuple(v.shape)}, of the shift {tuple(u.shape)}",
            "each entry has one vector of each",
            "two tensors of shape (features, latents)",
        )
    _, mask = checked(v, c, c.new_ones(()), x, mask)
    r = x - c
    if mask is not None:
        mask = mask.expand(x.shape)
        r = torch.where(mask, r, torch.zeros_like(r))
    return r @ u, mask


def _times(A: Tensor, b: Tensor) -> Tensor:
    """(N, K, K) times (N, K)."""
    return (A @ b.unsqueeze(-1)).squeeze(-1)
