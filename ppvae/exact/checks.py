"""The door of the fits: what cannot be fitted is refused here, with the columns named."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.errors import Problem


def as_matrix(x: Tensor, latents: int) -> tuple[Tensor, torch.dtype]:
    """Give x (N, D) in float64 and the dtype of the answer: x's own, the default one if x holds integers."""
    x = torch.as_tensor(x).detach()
    if x.dim() != 2:
        raise Problem(
            f"x has shape {tuple(x.shape)}",
            "a fit wants one table: rows are data, columns are features",
            "x.reshape(len(x), -1) for images, x.reshape(-1, 1) for a single column",
        )
    N, D = x.shape
    if N < 2:
        raise Problem(f"x has {N} rows", "a spread cannot be estimated from fewer than 2 rows", "passing more rows")
    if isinstance(latents, bool) or not isinstance(latents, int) or not 1 <= latents < D:
        raise Problem(
            f"latents={latents!r} for {D} features",
            "with no latent there is nothing to fit, with as many as features no noise is left to identify",
            f"a whole number from 1 to {D - 1}" if D > 1 else "data with more than one column",
        )
    return x.double(), x.dtype if x.is_floating_point() else torch.get_default_dtype()


def observed_entries(x: Tensor, mask: Tensor | bool | None) -> Tensor:
    """Give the mask (N, D), True = observed: the one passed, checked against x, or where x is not NaN."""
    if mask is None:
        mask = ~x.isnan()
    else:
        mask = torch.ones_like(x, dtype=torch.bool) if mask is True else torch.as_tensor(mask, device=x.device)
        if mask.dtype != torch.bool or (mask.shape != x.shape and mask.shape != (len(x), 1)):
            raise Problem(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)} for x of shape {tuple(x.shape)}",
                "a mask is boolean, True where an entry (or a whole row) is observed",
                f"a boolean mask of shape {tuple(x.shape)}, or ({len(x)}, 1) for whole rows",
            )
        mask = mask.expand_as(x)
        refuse(
            (mask & x.isnan()).any(0),
            "NaN where the mask says observed",
            "the mask and the data come from different places",
            "mask & ~x.isnan(), or no mask at all: NaN then means missing",
        )
    refuse(
        (mask & x.isinf()).any(0),
        "infinite values",
        "a division by zero or a logarithm of zero on the way here",
        "marking them as missing: x[x.isinf()] = nan",
    )
    return mask


def refuse(bad: Tensor, seen: str, cause: str, remedy: str) -> None:
    """Raise a Problem that names the columns where `bad` (D,) is True, if there are any."""
    if bad.any():
        raise Problem(f"{seen} in {columns(bad)}", cause, remedy)


def columns(where: Tensor) -> str:
    """Name the columns (counted from 0) where a boolean (D,) is True; at most ten."""
    found = where.nonzero().flatten().tolist()
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return f"column{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:10]))}{more}"
