"""The door: whatever a verb is given comes in here once, and leaves as tensors that everything else can trust.

Arrays, tensors and DataFrames become tensors of the pair's dtype and device; NaN becomes a mask; infinities,
words, wrong shapes and values outside the likelihood's support are refused with the place where they stand.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from ppvae.errors import Caution, Problem
from ppvae.pair import Pair


@dataclass(frozen=True)
class Table:
    """Rows of data by name, as `enter` leaves them.

    Attributes:
        values: each entry, rows first; x is (N, D).
        masks: True where observed, (N, D) or (N, 1); an entry without a mask is complete.
        total: the rows of the whole data set, of which these may be a batch.
    """

    values: dict[str, Tensor]
    masks: dict[str, Tensor]
    total: int

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def rows(self, index: Tensor | slice) -> Table:
        """The rows of ``index``, as a batch of the same data set."""
        return replace(
            self,
            values={k: v[index] for k, v in self.values.items()},
            masks={k: m[index] for k, m in self.masks.items()},
        )

    def to(self, device: torch.device) -> Table:
        return replace(
            self,
            values={k: v.to(device) for k, v in self.values.items()},
            masks={k: m.to(device) for k, m in self.masks.items()},
        )

    def call(self, pair: Pair) -> dict[str, Tensor]:
        """The keyword arguments for story and guide. An entry whose mask neither takes is left out where it is partly
        seen: `ppvae.tracing.traces` observes it row by row."""
        partly = self.partly_seen(pair)
        given = {name: value for name, value in self.values.items() if name not in partly}
        given |= {
            "mask" if name == "x" else f"mask_{name}": mask for name, mask in self.masks.items() if name not in partly
        }
        return given

    def partly_seen(self, pair: Pair) -> dict[str, tuple[Tensor, Tensor]]:
        """The entries that are observed in some rows and latent in others: (values, mask) by name."""
        return {
            name: (self.values[name], mask)
            for name, mask in self.masks.items()
            if not (pair.takes_mask(name) or pair.hides(name))
        }


def enter(pair: Pair, x: Any, mask: Any = None) -> Table:
    """Bring data in for a pair.

    Args:
        pair: whose dtype, device and sites the data must suit.
        x: (N, D) array, tensor or DataFrame, NaN = missing; or a mapping of such by name, each of N rows.
        mask: True = observed, (N, D), or (N,) or (N, 1) by row; or a mapping by name. None: all but NaN.

    Raises:
        Problem: words, infinities, shapes or names that do not fit, values outside the site's support.
    """
    if isinstance(x, Table):
        return x
    if not isinstance(pair, Pair):
        raise Problem(
            f"a {type(pair).__name__} stands where a pair belongs",
            "another order of arguments, or the result of fit",
            "fit(pair, x), condition(pair, x); the result of fit holds it as .pair",
        )
    values = dict(x) if isinstance(x, Mapping) else {"x": x}
    masks = dict(mask) if isinstance(mask, Mapping) else {"x": mask}
    values = {name: value for name, value in values.items() if value is not None}
    _refuse_names(pair, values, masks)
    home = next(pair.parameters(), torch.zeros(()))
    tensors = {name: _tensor(name, value, home) for name, value in values.items()}
    refuse_rows(tensors)
    sites = {name: site["fn"] for name, site in pair.sites(tensors).items()}
    tensors = {name: value[:, None] if name in sites and value.dim() == 1 else value for name, value in tensors.items()}
    seen = {name: _seen(name, value, masks.get(name)) for name, value in tensors.items()}
    for name, value in tensors.items():
        if name in sites:
            _refuse_columns(name, value, sites[name])
            if name != "x" and sites[name].event_dim:
                seen[name] = _whole_events(name, seen[name])
        _refuse_values(name, value, seen[name], sites.get(name))
        _caution(value, seen[name], sites.get(name))
    if (
        "x" in tensors
    ):  # a mask that is changed later, to try or to hide entries, does not change why others are missing
        tensors = {**pair.seen(tensors["x"], seen["x"]), **tensors}
    table = Table(tensors, {name: m for name, m in seen.items() if not m.all()}, len(next(iter(tensors.values()))))
    covariates = {name for name in table.masks if name not in sites and not (pair.takes_mask(name) or pair.hides(name))}
    if covariates:
        name = min(covariates)
        raise Problem(
            f"the covariate {name!r} has missing entries",
            "it is given, not modelled: there is nothing to fill it from",
            "complete it, or write a story that draws it",
        )
    return table


def _tensor(name: str, value: Any, home: Tensor) -> Tensor:
    if hasattr(value, "to_numpy"):  # a DataFrame or a Series; only then is pandas there
        value = _numbers(name, value)
    if isinstance(value, np.ma.MaskedArray):  # its mask is True where missing
        value = np.ma.filled(value.astype(float), np.nan)
    if isinstance(value, Tensor) and (value.is_sparse or value.is_complex() or value.layout != torch.strided):
        raise Problem(
            f"{name} is a {value.dtype} tensor with layout {value.layout}",
            "rows are dense and real",
            "x.to_dense(); the real part and the imaginary part as columns",
        )
    if not isinstance(value, Tensor):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            raise Problem(
                f"{name} holds {value.dtype} values, such as {value.ravel()[:1].tolist()}",
                "words or objects where numbers are needed",
                "encode them as numbers, missing ones as NaN",
            )
        native = value.dtype.newbyteorder("=")
        value = torch.as_tensor(np.array(value, native, order="C"))  # a copy: a DataFrame's own memory is read-only
    value = value.detach().to(home.device, home.dtype)
    if value.dim() == 0 or (name == "x" and value.dim() != 2) or len(value) == 0:
        raise Problem(
            f"{name} has shape {tuple(value.shape)}",
            "data are rows first: (N, D), at least one row",
            "x.reshape(len(x), -1) flattens images; x[None] makes one row of a vector",
        )
    return value


def _numbers(name: str, frame: Any) -> np.ndarray:
    import pandas as pd

    columns = frame if hasattr(frame, "columns") else frame.to_frame()
    words = [
        str(c)
        for c in columns.columns
        if not (pd.api.types.is_numeric_dtype(columns[c]) or pd.api.types.is_bool_dtype(columns[c]))
    ]
    if words:
        first = columns[words[0]].dropna().iloc[:1].tolist() if words[0] in columns else []
        raise Problem(
            f"{name} has columns that are not numbers: {', '.join(words[:5])} (such as {first})",
            "words, dates or categories in a table",
            "drop them or encode them as numbers; missing entries are NaN",
        )
    return frame.to_numpy(dtype=float, na_value=np.nan)


def _seen(name: str, value: Tensor, mask: Any) -> Tensor:
    """True where observed: the mask that was given, less the NaN. (N, D), or (N, 1) where it is by row."""
    present = ~value.isnan()
    if mask is None or (isinstance(mask, bool) and mask):
        return present
    mask = np.asarray(mask) if not isinstance(mask, Tensor) else mask
    if isinstance(mask, np.ndarray) and mask.dtype.kind not in "biuf":
        raise Problem(
            f"the mask of {name} holds {mask.dtype} values",
            "something else in the mask's place",
            "one bool an entry, True where observed",
        )
    mask = torch.as_tensor(mask, device=value.device)
    if mask.dtype != torch.bool:
        if not ((mask == 0) | (mask == 1)).all():
            raise Problem(
                f"the mask of {name} holds values other than 0 and 1",
                "weights, or the data themselves",
                "True (or 1) where an entry was observed, False (or 0) where it is missing",
            )
        mask = mask.bool()
    mask = mask.view(torch.uint8).ne(0)  # a bool that was made by a view may have another byte than 1
    mask = mask[:, None] if mask.dim() == 1 else mask
    if mask.shape not in (value.shape, (len(value), 1)):
        raise Problem(
            f"the mask of {name} has shape {tuple(mask.shape)}, the data {tuple(value.shape)}",
            "a mask of other rows, or transposed",
            "one bool an entry, or one a row: (N,) or (N, 1)",
        )
    return mask if present.all() or value.dim() == 1 else mask & present


def _whole_events(name: str, seen: Tensor) -> Tensor:
    """A mask of a site whose columns are one event (a one-hot label), by row: (N, 1)."""
    rows = seen.all(-1, keepdim=True)
    torn = seen.any(-1, keepdim=True) & ~rows
    if torn.any():
        raise Problem(
            f"row {_place(torn)[0]} of {name} is observed in part",
            f"the columns of {name} are one event: a label, a vector",
            "observe all of its columns or none; columns that stand alone belong under a plate at dim -1",
        )
    return rows


def _refuse_names(pair: Pair, values: dict[str, Any], masks: dict[str, Any]) -> None:
    known = pair.entries
    for name in [*values, *(name for name, mask in masks.items() if mask is not None)]:
        if name not in known:
            raise Problem(
                f"the data hold {name!r}, which neither the story nor the guide takes",
                "a misspelt name; it would be ignored in silence",
                f"this pair takes: {', '.join(known) or 'nothing'}",
            )
    for name, needed in known.items():
        if needed and name not in values and name != "x":
            raise Problem(
                f"the pair needs the entry {name!r}",
                "it is a covariate: given, never drawn",
                f"pass {{'x': x, {name!r}: …}} instead of x",
            )
    if not values:
        raise Problem("there are no data", "every entry is None", f"pass one of: {', '.join(known)}")
    for name, mask in masks.items():
        if mask is not None and name not in values:
            raise Problem(
                f"there is a mask of {name!r} and no {name!r}", "a misspelt name", f"the data hold: {', '.join(values)}"
            )


def refuse_rows(entries: Mapping[str, Sized]) -> None:
    """Refuse entries of different numbers of rows."""
    rows = {name: len(value) for name, value in entries.items()}
    if len(set(rows.values())) > 1:
        raise Problem(
            f"the entries have different numbers of rows: {rows}",
            "each row must have all of its entries",
            "cut them to the same rows; what belongs to one row, as a graph, has a first dimension of 1: nodes[None]",
        )


def _refuse_columns(name: str, value: Tensor, site: Any) -> None:
    event = (*site.batch_shape[1:], *site.event_shape)  # the site was drawn for one row
    width = event[-1] if event else 1
    if value.dim() > 1 and value.shape[-1] != width:
        if width == 1 and site.support.is_discrete:
            raise Problem(
                f"{name} has {value.shape[-1]} columns and is one number of a class",
                "an indicator for each class",
                f"the class's number: {name}.argmax(-1)",
            )
        raise Problem(
            f"{name} has {value.shape[-1]} columns and the pair was made for {width}",
            "another table, or images that were cropped or not flattened",
            f"make the pair with features={value.shape[-1]}, or pass the columns it was made for",
        )


def _refuse_values(name: str, value: Tensor, seen: Tensor, site: Any) -> None:
    infinite = value.isinf() & seen
    if infinite.any():
        row, column = _place(infinite)
        raise Problem(
            f"{name} is infinite at row {row}, column {column} ({int(infinite.sum())} such entries)",
            "an overflow, a division by zero, or infinity as a code for missing",
            "set missing entries to NaN, mend the rest",
        )
    if site is None or site.support.event_dim != site.event_dim or value.dim() < 2:
        return
    support = getattr(site.support, "base_constraint", site.support)
    if support.event_dim or any(isinstance(v, Tensor) and v.numel() > 1 for v in vars(support).values()):
        return  # bounds that differ by row are Pyro's to validate, on the first batch
    outside = ~support.check(torch.where(seen, value, torch.zeros_like(value))) & seen
    if outside.any():
        row, column = _place(outside)
        kind = type(getattr(site, "base_dist", site)).__name__
        kind = type(site.base_dist.base_dist).__name__ if kind == "MaskedDistribution" else kind
        raise Problem(
            f"{name} is {value[row, column].item():.4g} at row {row}, column {column}, outside {_said(support, column)} "
            f"({int(outside.sum())} such entries)",
            f"the likelihood is {kind}: other values have no density under it",
            _remedy(support, kind),
        )


def _caution(value: Tensor, seen: Tensor, site: Any) -> None:
    """Say what a site's law has to say of values that it scores and hardly knows."""
    words = site.caution(value, seen.all(-1)) if hasattr(site, "caution") else None
    if words:
        warnings.warn(words, Caution, stacklevel=3)


def _remedy(support: Any, kind: str) -> str:
    if hasattr(support, "of"):
        return "another kind for this column, NaN where a value is missing, or ppvae.data.Schema for words"
    if kind == "Categorical":
        return (
            "classes are counted from 0 on: y - y.min(); more of them: make(…, classes=…); NaN where one is not known"
        )
    if kind in ("Poisson", "NegativeBinomial"):
        return "whole numbers from 0 on, as counted: neither normalised nor their logarithms; NaN where one is missing"
    return "for grey pixels: binarize (x.bernoulli()) or make(…, likelihood='normal'); for counts: whole numbers"


def _said(support: Any, column: int) -> Any:
    """A support in words; where columns differ, that of this one."""
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        return f"the whole numbers {support.lower_bound} … {support.upper_bound}"
    return support.of(column) if hasattr(support, "of") else support


def _place(where: Tensor) -> tuple[int, int]:
    first = where.nonzero()[0].tolist()
    return first[0], first[1] if len(first) > 1 else 0
