r"""Missingness laws to hide known values by: each gives a mask (N, D), True = observed.

With R the mask, the kinds (Rubin 1976; Little & Rubin 2019, section 1.3) are

    missing completely at random (MCAR)   p(R | x) = p(R)
    missing at random (MAR)               p(R | x) = p(R | x_observed)
    missing not at random (MNAR)          p(R | x) depends on the missing values themselves

A likelihood that ignores the mask is legitimate under the first two only.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from ppvae.data.chance import generator
from ppvae.data.laws import checked, complete, draw, logistic, standardised
from ppvae.errors import Problem

ALWAYS = 0.3  # share of the columns that `mar` never hides


def mcar(x: Tensor | np.ndarray, rate: float = 0.5, seed: int = 0) -> Tensor:
    """Hide entries completely at random: p(missing_nj) = rate, independently (Rubin 1976).

    Args:
        x: (N, D) complete table.
        rate: probability of a hole, 0 <= rate < 1.
        seed: equal seeds give equal masks.

    Returns:
        (N, D) bool on the CPU, True = observed.

    Raises:
        Problem: a bad rate or seed; x that is no complete, finite table.
    """
    x, rate = complete(x), checked(rate)
    return draw(torch.full_like(x, rate), seed)


def mar(x: Tensor | np.ndarray, rate: float = 0.5, seed: int = 0) -> Tensor:
    r"""Hide entries at random given what stays observed (Rubin 1976; law as in Muzellec et al. 2020).

        A = a random 30 % of the columns (at least one), always observed
        p(missing_nj) = logistic(b_j + Σ_{k in A} w_kj (x_nk - m_k)/s_k / √#A),  w_kj ~ N(0, 1),  j not in A

    with b_j such that column j is missing at rate · D / (D - #A) on average: `rate` over the table.

    Args, Returns: as `mcar`.

    Raises:
        Problem: as `mcar`; a rate that the columns outside A cannot carry; columns A all constant.
    """
    x, rate = complete(x), checked(rate)
    D = x.shape[1]
    always = max(1, round(ALWAYS * D))
    if not rate * D < D - always:
        raise Problem(
            f"rate={rate} over {D} columns, of which {always} are always observed",
            f"the others cannot be missing often enough; the limit is {(D - always) / D:.2f}",
            "a lower rate, more columns, or mcar",
        )
    chance = generator(seed)
    order = torch.randperm(D, generator=chance)
    A, rest = order[:always], order[always:]
    z = standardised(x[:, A])  # (N, A)
    if not z.any():
        raise Problem(
            f"the always observed columns {A.tolist()} are constant",
            "missingness could not depend on them",
            "drop constant columns, or another seed",
        )
    score = z @ torch.randn(always, len(rest), generator=chance, dtype=z.dtype)  # (N, D - A)
    missing = torch.zeros_like(x)
    missing[:, rest] = logistic(score / always**0.5, rate * D / len(rest))
    return draw(missing, chance)


def mnar(x: Tensor | np.ndarray, rate: float = 0.5, seed: int = 0) -> Tensor:
    r"""Hide larger values more often: logistic self-masking (Little & Rubin 2019, chapter 15).

        p(missing_nj) = logistic(b_j + (x_nj - m_j)/s_j),  b_j such that column j has the rate on average

    A constant column has no larger values and is hidden completely at random.

    Args, Returns, Raises: as `mcar`.
    """
    x, rate = complete(x), checked(rate)
    return draw(logistic(standardised(x), rate), seed)


def self_masked(x: Tensor | np.ndarray) -> Tensor:
    r"""Hide values above their column's mean in the first half of the columns: x_nj > m_j, j < D // 2.

    The protocol of not-MIWAE (Ipsen, Mattei & Frellsen 2021). Nothing is drawn.

    Args, Returns: as `mcar`. Raises `Problem` for fewer than two columns.
    """
    x = complete(x)
    half = x.shape[1] // 2
    if not half:
        raise Problem(f"x of shape {tuple(x.shape)}", "the first half of one column is none", "two columns or more")
    mask = torch.ones_like(x, dtype=torch.bool)
    x = x[:, :half]
    mask[:, :half] = (x <= x.mean(0)) | (x == x.amin(0))  # a constant's rounded mean may lie below it
    return mask


def quarters(x: Tensor | np.ndarray, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Hide one quarter of each image, all its channels: q_n ~ U{0, 1, 2, 3}, missing where quarter(j) = q_n.

    Args:
        x: (N, D) images, D = channels · height · width.
        shape: (channels, height, width), height and width even.
        seed: equal seeds give equal masks.

    Returns:
        (N, D) bool, True = observed. The law does not depend on x: MCAR, but not entry by entry.
    """
    x = complete(x)
    if len(shape) != 3 or prod(shape) != x.shape[1] or shape[1] % 2 or shape[2] % 2:
        raise Problem(
            f"shape={tuple(shape)} for rows of {x.shape[1]} entries",
            "it must be (channels, height, width) of one row, with even height and width",
            "the shape of the data set, such as load('digits').shape",
        )
    C, H, W = shape
    lower, right = torch.arange(H) >= H // 2, torch.arange(W) >= W // 2
    quarter = (2 * lower[:, None] + right).expand(C, H, W).reshape(-1)  # (D,)
    hidden = torch.randint(4, (len(x), 1), generator=generator(seed))  # (N, 1)
    return quarter != hidden
