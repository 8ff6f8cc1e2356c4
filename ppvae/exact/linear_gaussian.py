"""What exact answers for x | z ~ N(W z + loc, diag(scale^2)), z ~ N(0, I) are built from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ppvae.errors import Problem

# Temporaries of one chunk of rows together. Larger chunks cost memory and save no time; much smaller ones
# make the matrix products thin.
CHUNK_BYTES = 64 * 2**20


def checked(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | bool) -> tuple[Tensor, Tensor | None]:
    """Check the shapes and give scale (D,) and the mask: None (all observed), (N, 1) (by row) or (N, D).

    Only shapes and dtypes are read, never values, so that a guide calling this can be staged.
    """
    if W.dim() != 2 or x.dim() != 2 or x.shape[1] != W.shape[0]:
        raise Problem(
            f"W has shape {tuple(W.shape)} and x has shape {tuple(x.shape)}",
            "W must be (features, latents) and x (rows, features), with the same number of features",
            "transposing W, or flattening each row of x",
        )
    D = W.shape[0]
    for name, value in (("loc", loc), ("scale", scale)):
        if value.dim() > 1 or value.numel() not in (1, D):
            raise Problem(
                f"{name} has shape {tuple(value.shape)} for {D} features",
                f"{name} holds one value a feature",
                f"{name}.reshape({D}), or one value for all features",
            )
    scale = scale.expand(D)
    if mask is True:
        return scale, None
    mask = torch.as_tensor(mask, device=x.device)
    if mask.dtype != torch.bool:
        raise Problem(
            f"the mask holds {mask.dtype}",
            "a mask is True where an entry is observed",
            "mask.bool(), or ~x.isnan()",
        )
    N = len(x)
    if mask.shape == (N, 1) or mask.shape == (N, D):
        return scale, mask
    if mask.dim() == 0:
        return scale, mask.expand(N, 1)
    raise Problem(
        f"the mask has shape {tuple(mask.shape)} for x of shape {tuple(x.shape)}",
        "a mask says for each entry, or for each row, whether it is observed",
        f"a mask of shape ({N}, {D}), or ({N}, 1) for whole rows",
    )


def whiten(W: Tensor, loc: Tensor, scale: Tensor, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Divide W and x - loc by the noise scale; an entry that is not observed becomes 0.

    `where` keeps what stands in a missing entry, NaN included, out of values and gradients; a product with
    the mask does not.
    """
    r = x - loc  # (N, D)
    r = r if mask is None else torch.where(mask, r, torch.zeros_like(r))
    return W / scale.unsqueeze(-1), r / scale  # (D, K), (N, D)


def packed_pairs(a: Tensor) -> Tensor:
    """Give the packed lower triangle of a a^T, row by row. (..., K) -> (..., K (K + 1) / 2)."""
    i, j = torch.tril_indices(a.shape[-1], a.shape[-1], device=a.device)
    return a.index_select(-1, i) * a.index_select(-1, j)


def pack(matrices: Tensor) -> Tensor:
    """Give the packed lower triangles, row by row. (K, K) or (N, K, K) -> (1 or N, K (K + 1) / 2)."""
    i, j = torch.tril_indices(*matrices.shape[-2:], device=matrices.device)
    return matrices.reshape(-1, *matrices.shape[-2:])[:, i, j]


def unpack(packed: Tensor, size: int) -> Tensor:
    """Give the symmetric matrices whose packed lower triangles these are. (N, K (K + 1) / 2) -> (N, K, K)."""
    i = torch.arange(size, device=packed.device)
    high, low = torch.maximum(i, i[:, None]), torch.minimum(i, i[:, None])
    position = high * (high + 1) // 2 + low  # (K, K), the packing is row by row
    return packed.index_select(-1, position.flatten()).unflatten(-1, (size, size))


def precision(A: Tensor, mask: Tensor | None) -> Tensor:
    r"""Give the precision of z :math:`I + \sum_j m_{nj} a_j a_j^\top`, :math:`a_j = w_j / \sqrt{\psi_j}`.

    Reference: Williams, Nash & Nazabal 2018, the sum of rank-one terms over the observed features.

    Args:
        A: whitened loadings (D, K).
        mask: (N, D), or None when all rows observe everything.

    Returns:
        (K, K) without a mask, (N, K, K) with one. All rows come from one matrix product with D rank-one
        terms.
    """
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    if mask is None:
        return eye + A.mT @ A
    return eye + unpack(mask.to(A.dtype) @ packed_pairs(A), A.shape[-1])


def precision_cholesky(A: Tensor, mask: Tensor | None) -> Tensor:
    """Give L, L L^T = precision; by-row masks need one factorisation: rows have the complete one or I."""
    if mask is None or mask.shape[-1] != 1:
        return torch.linalg.cholesky(precision(A, mask))  # (K, K) or (N, K, K)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.where(mask.unsqueeze(-1), torch.linalg.cholesky(precision(A, None)), eye)


def chunk_rows(features: int, latents: int, itemsize: int) -> int:
    """Give the number of rows whose temporaries (about 3.5 K x K matrices and 3 x D) fit `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // (itemsize * (3 * latents**2 + latents * (latents + 1) // 2 + 3 * features)))


def chunks(W: Tensor, x: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Walk through the rows of x and mask in chunks of bounded memory."""
    rows = chunk_rows(*W.shape, x.element_size())
    xs = x.split(rows)
    yield from zip(xs, [None] * len(xs) if mask is None else mask.split(rows), strict=True)


def inverse_root(P: Tensor) -> Tensor:
    """Give the lower triangular S with S S^T = P^-1 (..., K, K), from one Cholesky factorisation.

    With P flipped along both dims = L L^T, P^-1 = flip(L^-T) flip(L^-1), and a flipped upper triangle is
    lower.
    """
    L = torch.linalg.cholesky(P.flip(-2, -1))
    eye = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    return torch.linalg.solve_triangular(L, eye, upper=False).mT.flip(-2, -1)
