"""What a way to complete a table gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor


class Completed(NamedTuple):
    """What a table with holes is completed by; observed entries as they were."""

    mean: Tensor
    """(N, D)"""
    draws: Tensor
    """(S, N, D)"""
    found: Mapping[str, Any] = MappingProxyType({})
    """Figures of the fit by name, where the way has any; likelihoods are those of the columns' scales."""
