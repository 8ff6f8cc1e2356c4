"""What leaves for ArviZ: Pareto tail indices, and a DataTree with its group names."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pareto_k(log_weights: Tensor) -> Tensor:
    """The Pareto tail index of each row's weights, by ArviZ: (P, N) to (N,). Equal weights have no tail: -inf."""
    weights = log_weights.double().cpu().T  # (N, P)
    spread = weights.amax(1) - weights.amin(1)
    uneven = spread > 1e3 * torch.finfo(log_weights.dtype).eps * (1 + weights.abs().amax(1))
    k = torch.full((len(weights),), -torch.inf, dtype=torch.double)
    if uneven.any():
        k[uneven] = torch.as_tensor(np.atleast_1d(_psislw()(weights[uneven].numpy())[1]))
    return k.to(log_weights)


def _psislw() -> Callable:
    try:  # ArviZ 1
        from arviz_stats.base import array_stats

        return array_stats.psislw
    except ImportError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ArviZ 0.23 announces version 1 on import
            from arviz import psislw
        return psislw


def datatree(draws: dict[str, Tensor], completed: Tensor, log_likelihood: Tensor, x: Tensor, mask: Tensor) -> Any:
    """Arrange draws as ArviZ expects them: a chain of S draws.

    Args:
        draws: each latent, (S, N, K) or, if global, (S, …).
        completed: rows drawn from p(x_m | x_o), (S, N, D): group posterior_predictive.
        log_likelihood: log p(x_nd | z_n) of each observed entry, (S, N, D); where nothing was observed it is 0.
        x, mask: (N, D): groups observed_data (NaN where missing) and constant_data.
    """
    import xarray as xr

    def chain(name: str, value: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
        own = [f"{name}_dim_{i}" for i in range(value.dim() - 1)]
        if value.dim() > 1 and value.shape[1] == len(x):
            own[0] = "row"
        return ("chain", "draw", *own), value[None].cpu().numpy()

    entry = ("chain", "draw", "row", "feature")
    groups = {
        "posterior": {name: chain(name, value) for name, value in draws.items()},
        "posterior_predictive": {"x": (entry, completed[None].cpu().numpy())},
        "log_likelihood": {"x": (entry, log_likelihood[None].cpu().numpy())},
        "observed_data": {"x": (("row", "feature"), torch.where(mask, x, torch.nan).cpu().numpy())},
        "constant_data": {"mask": (("row", "feature"), mask.cpu().numpy())},
    }
    return xr.DataTree.from_dict({name: xr.Dataset(variables) for name, variables in groups.items()})
