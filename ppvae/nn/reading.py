"""How a network reads a row whose columns are of several kinds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppvae.nn.filled import observed
from ppvae.nn.kinds import Scales, arranged, classes, grouped, kinds_of, on_scale, scale_tensor


class Reading(nn.Module):
    """Rows (…, N, D) and their masks as features and theirs, (…, N, F) each, kind by kind; 0 in a gap.

    Numbers are standardised by their column's scale, positive ones' logarithm and log(1 + counts); a categorical column is C
    indicators of its classes; an ordinal one C-1 of x > c, so that neighbours look alike; a bit is one of them.

    Args:
        kinds: of the D columns.
        scales: as of `ppvae.nn.kinds.scales`; None: 0 and 1.

    Attributes:
        features: F.
    """

    order: Tensor
    source: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, kinds: Sequence[str], scales: Scales | None = None) -> None:
        super().__init__()
        kinds = kinds_of(kinds, len(kinds))
        units, order = scale_tensor(scales, len(kinds)), arranged(kinds)[0]
        self.groups = [(kind, len(group)) for kind, group in grouped(kinds).items()]
        widths = torch.tensor([_width(kind) for kind, J in self.groups for _ in range(J)])
        self.features = int(widths.sum())
        tensors = {"order": order, "source": order.repeat_interleave(widths)}  # (D,), (F,): the column of a feature
        for name, tensor in {**tensors, "loc": units[order, 0], "scale": units[order, 1]}.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | bool = True) -> tuple[Tensor, Tensor]:
        seen = observed(x, mask)
        x = x.index_select(-1, self.order)
        sizes = [J for _, J in self.groups]
        parts = zip(self.groups, x.split(sizes, -1), self.loc.split(sizes), self.scale.split(sizes), strict=True)
        features = torch.cat([_read(kind, part, loc, scale) for (kind, _), part, loc, scale in parts], -1)
        seen = seen.index_select(-1, self.source)
        return torch.where(seen, features, 0.0), seen


def _width(kind: str) -> int:
    count = classes(kind)
    return count if kind.startswith("categorical") else max(1, count - 1)


def _read(kind: str, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The features of the columns of one kind, (…, J) to (…, J · width)."""
    if not classes(kind):
        return (on_scale(x, kind) - loc) / scale
    codes = torch.arange(_width(kind), dtype=x.dtype, device=x.device)
    found = x.unsqueeze(-1) == codes if kind.startswith("categorical") else x.unsqueeze(-1) > codes
    return found.to(x.dtype).flatten(-2)
