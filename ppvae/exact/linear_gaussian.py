"""What exact answers for x | z ~ N(W z + loc, diag(scale^2)), z ~ N(0, I) are built from."""

from __future__ import annotations

import torch
from torch import Tensor

from ppvae.errors import Problem
from ppvae.exact.values import unwatched

# Temporaries of one chunk of rows together. Larger chunks cost memory and save no time; much smaller ones
# make the matrix products thin.
CHUNK_BYTES = 64 * 2**20

# What MKL multiplies by at a time: a product with 10 columns takes twice the time of one with 12, with 55 a third more than
# with 60.
COLUMNS = 12


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
    if x.is_floating_point() and W.dtype != x.dtype:
        raise Problem(
            f"W holds {W.dtype} and x {x.dtype}",
            "the story and the rows were made apart",
            f"x.to(W.dtype), or W, loc and scale in {x.dtype}",
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


class Precisions:
    r"""Precisions of z :math:`I + \sum_j m_{nj} a_j a_j^\top` for any rows of a mask, prepared once for all chunks.

    All rows come from one matrix product of the mask with the packed rank-one terms.

    Reference: Williams, Nash & Nazabal 2018, the sum of rank-one terms over the observed features.

    Args:
        A: whitened loadings (D, K).
        weight: what stands for an observed entry in the masks that come, (D,).
        entry: a number for each feature (D,), summed over the observed ones by the same product.
    """

    def __init__(self, A: Tensor, weight: Tensor, entry: Tensor | None = None) -> None:
        (D, K), device = A.shape, A.device
        i, j = torch.tril_indices(K, K, device=device)
        first, second = [A], [A, A.new_ones(D, 1), A.new_zeros(D, 1)]  # columns K and K + 1
        if entry is not None:
            first.append(entry.unsqueeze(-1))
            i, j = (torch.nn.functional.pad(v, (0, 1), value=K) for v in (i, j))
        rest = -len(i) % COLUMNS
        i, j = torch.nn.functional.pad(i, (0, rest)), torch.nn.functional.pad(j, (0, rest), value=K + 1)
        first, second = _pick(torch.cat(first, -1), i), _pick(torch.cat(second, -1) / weight.unsqueeze(-1), j)
        self.terms = torch.mul(first, second, out=first if unwatched(first, second) else None)  # (D, …)
        self.latents, self.position = K, position(K, device)
        eye = pack(torch.eye(K, dtype=A.dtype, device=device))
        self.eye = torch.nn.functional.pad(eye, (0, self.terms.shape[-1] - eye.shape[-1]))

    def packed(self, weights: Tensor, columns_first: bool = False) -> Tensor:
        """Give for a mask (n, D), as weights and 0, the packed precisions and then the sums; in memory row after row, or
        column after column."""
        if columns_first:
            return torch.addmm(self.eye.mT, self.terms.mT, weights.mT).mT
        return torch.addmm(self.eye, weights, self.terms)

    def sums(self, packed: Tensor) -> Tensor:
        """Give the sums (n,) of what `packed` gave."""
        return packed[:, self.latents * (self.latents + 1) // 2]

    def cholesky(self, packed: Tensor) -> Tensor:
        """Give the Cholesky factors (n, K, K) of what `packed` gave."""
        # Unpacking jumps from line to line: first they are fetched in order.
        square = _pick(packed.clone(memory_format=torch.contiguous_format), self.position)
        return torch.linalg.cholesky(square.unflatten(-1, (self.latents, self.latents)))


def padded(columns: Tensor) -> Tensor:
    """Add columns of 0 up to a multiple of `COLUMNS`."""
    return torch.nn.functional.pad(columns, (0, -columns.shape[-1] % COLUMNS))


def precision(A: Tensor, mask: Tensor | None) -> Tensor:
    """Give the precisions of `Precisions`: (K, K) without a mask, (N, K, K) with one (N, D)."""
    D, K = A.shape
    if mask is None:
        return torch.eye(K, dtype=A.dtype, device=A.device) + A.mT @ A
    return unpack(Precisions(A, A.new_ones(D)).packed(mask.to(A.dtype).expand(-1, D)), K)


def packed_pairs(a: Tensor) -> Tensor:
    """Give the packed lower triangle of a a^T, row by row. (N, K) -> (N, K (K + 1) / 2)."""
    i, j = torch.tril_indices(a.shape[-1], a.shape[-1], device=a.device)
    return _pick(a, i) * _pick(a, j)


def pack(matrices: Tensor) -> Tensor:
    """Give the packed lower triangles, row by row. (K, K) or (N, K, K) -> (1 or N, K (K + 1) / 2)."""
    K = matrices.shape[-1]
    i, j = torch.tril_indices(K, K, device=matrices.device)
    return _pick(torch.atleast_2d(matrices.flatten(-2)), i * K + j)


def unpack(packed: Tensor, size: int) -> Tensor:
    """Give the symmetric matrices whose packed lower triangles these rows start with. (N, >= K (K + 1) / 2) -> (N, K, K)."""
    return _pick(packed, position(size, packed.device)).unflatten(-1, (size, size))


def position(size: int, device: torch.device) -> Tensor:
    """Give where each entry of a symmetric matrix stands in its packed lower triangle, (size^2,)."""
    i = torch.arange(size, device=device)
    high, low = torch.maximum(i, i[:, None]), torch.minimum(i, i[:, None])
    return (high * (high + 1) // 2 + low).flatten()


def _pick(rows: Tensor, columns: Tensor) -> Tensor:
    """Give these columns of every row: `index_select` along the last dim, which takes 5 to 10 times as long."""
    return rows.gather(-1, columns.expand(len(rows), -1))


def chunk_rows(features: int, latents: int, itemsize: int) -> int:
    """Give the number of rows whose masks, residuals and packed precisions fit a quarter of `CHUNK_BYTES`.

    The last-level cache holds them beside the packed terms, which are read once a chunk: more rows would not be faster,
    few would read the terms, 20 MiB at K = 100, too often.
    """
    return max(1, CHUNK_BYTES // (4 * itemsize * (latents * (latents + 1) // 2 + 4 * features)))


def block_rows(latents: int, itemsize: int) -> int:
    """Give the number of rows of which three K x K matrices fit a sixteenth of `CHUNK_BYTES`: those stay in the cache
    from the unpacking of a precision to the end of what its factor is for."""
    return max(1, CHUNK_BYTES // (16 * itemsize * 3 * latents**2))


def inverse_root(P: Tensor) -> Tensor:
    """Give the lower triangular S with S S^T = P^-1 (..., K, K), from one Cholesky factorisation."""
    return flipped_root(torch.linalg.cholesky(P.flip(-2, -1)))


def flipped_root(L: Tensor) -> Tensor:
    """Give the lower triangular S with S S^T = P^-1, from the Cholesky factor L of P with its latents in reverse.

    P^-1 = flip(L^-T) flip(L^-1), and a flipped upper triangle is lower.
    """
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device)
    return torch.linalg.solve_triangular(L, eye, upper=False).mT.flip(-2, -1)
