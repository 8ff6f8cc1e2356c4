"""P m = b and log |P| for one precision a row, from factors of P or without them."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.exact.linear_gaussian import position


def solve(L: Tensor, b: Tensor) -> Tensor:
    """Solve L L^T m = b for one vector a row. L (K, K) or (n, K, K), b (n, K) -> (n, K)."""
    if L.dim() == 2:
        return torch.cholesky_solve(b.mT, L).mT
    return torch.cholesky_solve(b.unsqueeze(-1), L).squeeze(-1)


def half_log_det(L: Tensor) -> Tensor:
    """Give half of log |L L^T|. (..., K, K) -> (...)"""
    return L.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def solve_by_group(table: Tensor, numbers: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Give m (n, K) and half of log |P| (n,), where numbers (n,) say which of the factors, table (G, K, K), is a row's."""
    order, m = numbers.argsort(), torch.empty_like(b)
    parts = b.index_select(0, order).split(torch.bincount(numbers, minlength=len(table)).tolist())
    m[order] = torch.cat([solve(L, part) for L, part in zip(table, parts, strict=True)])
    return m, half_log_det(table).index_select(0, numbers)


def eliminate(packed: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Solve P m = b and give m and half of log |P|, of packed precisions (n, >= K (K + 1) / 2) and b (n, K).

    Gaussian elimination of positive definite matrices, in all rows at once, which stand last in memory: for small K. None where
    rounding has left nothing of a pivot: a Cholesky factorisation then says whether there is an answer.
    """
    n, K = b.shape
    P = b.new_empty(K + 1, K, n)  # its last row is b
    torch.index_select(packed.mT, 0, position(K, b.device), out=P[:K].view(K * K, n))
    P[K] = b.mT
    least = P[:K].diagonal() * (K * torch.finfo(b.dtype).eps)  # (n, K)
    for j in range(K - 1):
        P[j + 1 :, j + 1 :].addcmul_((P[j + 1 :, j] / P[j, j]).unsqueeze(1), P[j, j + 1 :], value=-1)
    pivots = P[:K].diagonal()
    if not (pivots > least).all():
        return None
    m = P[K]
    for j in reversed(range(K)):
        m[j] /= P[j, j]
        m[:j].addcmul_(P[:j, j], m[j], value=-1)
    return m.mT, 0.5 * pivots.log().sum(-1)
