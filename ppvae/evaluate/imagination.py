r"""The three C's of imagination: is what was imagined what was asked for, in all its variety, and new.

A query asks for some attributes y_o and leaves the others open; a classifier says which attributes each of S samples has.
Shapes: predicted (…, S, A), asked and mask (…, A), True = asked for; leading dims are queries, and each gets a number.

Reference: Vedantam, Fischer, Huang & Murphy 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppvae.errors import Problem


def correctness(predicted: Any, asked: Any, mask: Any = True) -> Tensor:
    r"""The share of the asked attributes that a sample has, averaged over samples, (…,); NaN where none is asked.

    .. math:: \frac{1}{|S|} \sum_{x \in S} \frac{1}{|O|} \sum_{k \in O} 1\{\hat y(x)_k = y_k\}

    Args:
        predicted: codes that the classifier found, (…, S, A).
        asked: codes, (…, A); where nothing is asked any number, NaN too.
        mask: True where an attribute is asked for, (…, A); True: all are.
    """
    predicted, asked = torch.as_tensor(predicted), torch.as_tensor(asked)
    mask = _mask(predicted, asked, mask)
    hits = (predicted == asked.unsqueeze(-2)) & mask.unsqueeze(-2)  # (…, S, A)
    return hits.double().sum(-1).mean(-1) / mask.sum(-1)


def coverage(predicted: Any, mask: Any, truth: Sequence[Any]) -> Tensor:
    r"""How near the samples' law of each attribute that was left open is to the true one, (…,); NaN where none is open.

    .. math:: \frac{1}{|M|} \sum_{k \in M} (1 - JS(p_k, q_k)), \quad
        JS(p, q) = \tfrac12 KL(p \| \tfrac{p + q}{2}) + \tfrac12 KL(q \| \tfrac{p + q}{2})

    with p_k the samples' frequencies and KL in bits: 1 where they are equal, 0 where they share no value. Frequencies of few
    draws differ from their own law: perfect draws of 10 equal classes have 0.89 in the mean at S = 20, 0.98 at S = 100.

    Args:
        predicted: codes that the classifier found, (…, S, A).
        mask: True where an attribute is asked for, (…, A).
        truth: of each of the A attributes the probabilities q_k of its classes given what is asked, (…, C_k).
    """
    predicted = torch.as_tensor(predicted)
    truth = [torch.as_tensor(q).double() for q in truth]
    mask = _mask(predicted, predicted.select(-2, 0), mask)
    if len(truth) != predicted.shape[-1] or any((q.sum(-1) - 1).abs().max() > 1e-6 for q in truth):
        raise Problem(
            f"truth holds {len(truth)} laws for {predicted.shape[-1]} attributes, or one that does not add up to 1",
            "counts, or other attributes",
            "the probabilities of each attribute's classes: counts / counts.sum(-1, keepdim=True)",
        )
    near = []
    for k, q in enumerate(truth):
        codes = torch.arange(q.shape[-1], device=predicted.device)
        p = (predicted[..., k, None] == codes).double().mean(-2)  # (…, C)
        near.append(1 - _divergence(p, q.to(p.device)))
    open_ = ~mask
    return torch.where(open_, torch.stack(near, -1), 0.0).sum(-1) / open_.sum(-1)


def compositionality(predicted: Any, asked: Any, trained: Any) -> Tensor:
    """`correctness` on concepts that no training row has, (…,).

    Args:
        predicted: codes that the classifier found, (…, S, A).
        asked: whole concepts, (…, A).
        trained: the rows' attributes that were trained on, (N, A).

    Raises:
        Problem: a concept that was trained on.
    """
    asked, trained = torch.as_tensor(asked), torch.as_tensor(trained)
    known = (asked.reshape(-1, 1, asked.shape[-1]) == torch.unique(trained, dim=0).to(asked)).all(-1).any(-1)
    if known.any():
        raise Problem(
            f"{int(known.sum())} of {len(known)} concepts were trained on, such as {asked.reshape(-1, asked.shape[-1])[known][0].tolist()}",
            "concepts of another split",
            "those held out: ppvae.data.mnist_attributes.mnist_attributes(split='comp').held_out",
        )
    return correctness(predicted, asked)


def _mask(predicted: Tensor, asked: Tensor, mask: Any) -> Tensor:
    mask = torch.as_tensor(mask, device=asked.device)
    shape = (*predicted.shape[:-2], predicted.shape[-1])
    if predicted.dim() < 2 or asked.shape != shape or mask.dtype != torch.bool or mask.shape not in ((), shape):
        raise Problem(
            f"predicted has shape {tuple(predicted.shape)}, asked {tuple(asked.shape)}, the mask {tuple(mask.shape)} of {mask.dtype}",
            "other queries, or samples that do not stand before the attributes",
            "predicted (…, S, A), asked (…, A), mask (…, A) of bools",
        )
    return mask.expand(shape)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """JS of laws (…, C), in bits."""
    middle = (p + q) / 2
    of_p, of_q = (torch.where(law > 0, law * (law / middle).log2(), 0.0).sum(-1) for law in (p, q))
    return (of_p + of_q) / 2
