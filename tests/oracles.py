"""Dense, slow, independent answers for factor analysis, row by row, with the covariance of x written out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def dense_log_evidence(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """log N(x_o; loc_o, (W W^T + diag scale^2)_oo) of each row, 0 where nothing is observed. (N,)"""
    covariance = W @ W.T + torch.diag(scale**2)
    values = []
    for row, o in zip(x, mask, strict=True):
        if not o.any():
            values.append(torch.zeros((), dtype=x.dtype))
            continue
        values.append(MultivariateNormal(loc[o], covariance[o][:, o]).log_prob(row[o]))
    return torch.stack(values)


def dense_posterior(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (N, K) and covariance (N, K, K) of z | x_o, by conditioning the joint Gaussian of (z, x_o)."""
    covariance = W @ W.T + torch.diag(scale**2)
    means, covariances = [], []
    for row, o in zip(x, mask, strict=True):
        gain = W[o].T @ torch.linalg.inv(covariance[o][:, o])  # cov(z, x_o) cov(x_o)^-1
        means.append(gain @ (row[o] - loc[o]))
        covariances.append(torch.eye(W.shape[1], dtype=W.dtype) - gain @ W[o])
    return torch.stack(means), torch.stack(covariances)


def dense_impute_mean(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """x with x_m replaced by loc_m + cov(x_m, x_o) cov(x_o)^-1 (x_o - loc_o). (N, D)"""
    covariance = W @ W.T + torch.diag(scale**2)
    filled = x.clone()
    for n, o in enumerate(mask):
        gain = covariance[~o][:, o] @ torch.linalg.inv(covariance[o][:, o])
        filled[n, ~o] = loc[~o] + gain @ (x[n, o] - loc[o])
    return filled
