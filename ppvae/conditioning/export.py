"""What leaves for ArviZ: Pareto tail indices, a DataTree with its group names, and a file of many rows, block by block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.files import write_whole

if TYPE_CHECKING:
    from xarray import DataTree


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


def datatree(
    draws: dict[str, Tensor],
    completed: Tensor,
    log_likelihood: Tensor,
    x: Tensor,
    mask: Tensor,
    prior: dict[str, Tensor] | None = None,
    sample_stats: dict[str, Tensor] | None = None,
) -> DataTree:
    """Arrange draws as ArviZ expects them: a chain of S draws.

    Args:
        draws: each latent, (S, N, K) or, if global, (S, …).
        completed: rows drawn from p(x_m | x_o), (S, N, D): group posterior_predictive.
        log_likelihood: log p(x_nd | z_n) of each observed entry, (S, N, D); where nothing was observed it is 0.
        x, mask: (N, D): groups observed_data (NaN where missing) and constant_data.
        prior: the latents drawn from the story, as ``draws``; with x (S, N, D) among them, that is prior_predictive.
        sample_stats: numbers on the draws: log_weight (S, N); ess and pareto_k of each row (N,).
    """
    import xarray as xr

    def chain(name: str, value: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
        own = [f"{name}_dim_{i}" for i in range(value.dim() - 1)]
        if value.dim() > 1 and value.shape[1] == len(x):
            own[0] = "row"
        return ("chain", "draw", *own), value[None].cpu().numpy()

    def stat(value: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
        if value.dim() == 1:
            return ("row",), value.cpu().numpy()
        return ("chain", "draw", "row"), value[None].cpu().numpy()

    entry = ("chain", "draw", "row", "feature")
    groups: dict[str, dict[str, Any]] = {
        "posterior": {name: chain(name, value) for name, value in draws.items()},
        "posterior_predictive": {"x": (entry, completed[None].cpu().numpy())},
        "log_likelihood": {"x": (entry, log_likelihood[None].cpu().numpy())},
        "observed_data": {"x": (("row", "feature"), torch.where(mask, x, torch.nan).cpu().numpy())},
        "constant_data": {"mask": (("row", "feature"), mask.cpu().numpy())},
    }
    if sample_stats:
        groups["sample_stats"] = {name: stat(value) for name, value in sample_stats.items()}
    if prior:
        groups["prior"] = {name: chain(name, value) for name, value in prior.items() if name != "x"}
        if "x" in prior:
            groups["prior_predictive"] = {"x": (entry, prior["x"][None].cpu().numpy())}
    return xr.DataTree.from_dict({name: xr.Dataset(variables) for name, variables in groups.items()})


def write(path: str | Path, trees: Iterable[Any], rows: int) -> None:
    """Write the trees of consecutive blocks of rows as one netCDF file, one block in memory at a time.

    What has a dim "row" is laid end to end, anything else is the first block's. The file is that of
    ``whole_tree.to_netcdf(path)``, and is written whole or not at all.

    Args:
        path: the file.
        trees: as `datatree` makes them, of the rows in order.
        rows: N, of all blocks together.

    Raises:
        Problem: blocks with more or fewer rows than N; no folder.
    """
    write_whole(path, lambda draft: _lay_end_to_end(draft, trees, rows))


def _lay_end_to_end(path: str, trees: Iterable[Any], rows: int) -> None:
    import h5netcdf

    start = 0
    with h5netcdf.File(path, "w") as file:
        for tree in trees:
            size = max(dataset.sizes.get("row", 0) for dataset in tree.children.values())
            _refuse_other_rows(start + size <= rows, start + size, rows)
            for name, dataset in tree.children.items():
                group = file.groups[name] if name in file.groups else file.create_group(name)
                for variable, values in dataset.data_vars.items():
                    if variable not in group.variables:
                        _make(group, variable, values, rows)
                    if start == 0 or "row" in values.dims:
                        place = tuple(slice(start, start + size) if d == "row" else slice(None) for d in values.dims)
                        group.variables[variable][place] = _stored(values)
            start += size
    _refuse_other_rows(start == rows, start, rows)


def _refuse_other_rows(fits: bool, found: int, rows: int) -> None:
    if not fits:
        raise Problem(f"the blocks have {found} rows, not {rows}", "another table's blocks", "the rows of all blocks")


def _make(group: Any, variable: str, values: Any, rows: int) -> None:
    for dim, size in values.sizes.items():
        if dim not in group.dimensions:
            group.dimensions[dim] = rows if dim == "row" else size
    stored = _stored(values)
    fill = {"fillvalue": np.nan} if stored.dtype.kind == "f" else {}
    made = group.create_variable(variable, values.dims, stored.dtype, **fill)
    if values.dtype == bool:
        made.attrs["dtype"] = "bool"  # as xarray writes it: netCDF has no booleans


def _stored(values: Any) -> np.ndarray:
    return values.values.astype("i1") if values.dtype == bool else values.values
