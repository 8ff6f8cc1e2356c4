r"""Encoders q(z | x_o) of rows with missing entries, behind one interface.

``encoder(x, mask)`` gives a distribution of batch (…, N, 1) and event (K,), so any amortized guide takes any of them:

    zero_fill     a network of the filled row, which is not told where the gaps are (Nazabal et al. 2020, section 3)
    learned_fill  the same with one learned value a feature in the gaps
    mask          a network of the row and its mask (Collier, Nazabal & Williams 2020)
    set           a network of each observed entry and its place, their sum, a network (Ma et al. 2019)
    experts       a product of the prior and of one Gaussian expert an observed entry (Williams, Nash & Nazabal 2018)

All but zero_fill give the same whatever stands in a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ppvae.errors import Problem
from ppvae.nn.experts import Experts
from ppvae.nn.filled import LearnedFill, MaskBeside, Network, ZeroFill
from ppvae.nn.layers import mlp
from ppvae.nn.sets import EntrySet

FILLED = {"zero_fill": ZeroFill, "learned_fill": LearnedFill, "mask": MaskBeside}
KINDS = (*FILLED, "set", "experts")
ENTRY_WIDTH = 32  # every entry of every row has so many features: rows x D x width numbers a layer


def encoder(
    kind: str,
    features: int,
    latents: int,
    hidden: Sequence[int] = (400, 200),
    activation: Callable[[], nn.Module] = nn.ReLU,
    network: Network | None = None,
) -> nn.Module:
    """The encoder of that kind, called ``encoder(x, mask=True)``.

    Args:
        kind: zero_fill, learned_fill, mask, set or experts.
        features: D. What is always observed, a label's indicator, may stand among them, its mask True.
        latents: K.
        hidden: widths of the network of the row; of ``set``, of the network after the sum. The network of an entry,
            in ``set`` and ``experts``, has two layers of 32.
        activation: of that network.
        network: of the three that read a filled row, in place of a fully connected one: D (``mask``: 2 D) to a module
            and its output's features.
    """
    if kind not in KINDS:
        raise Problem(f"there is no encoder {kind!r}", "a misspelt name", f"one of: {', '.join(KINDS)}")
    if kind == "set":
        return EntrySet(features, latents, hidden, activation, ENTRY_WIDTH)
    if kind == "experts":
        return Experts(features, latents, ENTRY_WIDTH)

    def connected(inputs: int) -> tuple[nn.Module, int]:
        return mlp(inputs, hidden, activation), hidden[-1] if hidden else inputs

    return FILLED[kind](features, latents, network or connected)
