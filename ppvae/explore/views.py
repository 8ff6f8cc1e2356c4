"""What the page asks of a pair: codes of rows in a plane of latents, the mean of x at a place of it, a row's posterior."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppvae.conditioning.averages import effective, expectation, log_mean_exp
from ppvae.conditioning.completion import completed
from ppvae.conditioning.posterior import Posterior, condition
from ppvae.errors import Problem
from ppvae.machine import own_generators
from ppvae.pair import Pair

ROWS = 400  # of which codes are shown
PARTICLES = 200  # importance samples a row: its numbers must come while a finger moves
IMPUTATIONS = 5
DRAWS = 100  # of the posterior: dots in the plane, and the standard deviation
OTHERS = 32  # draws of the latents besides the plane's, where the story has more
GREYS = 255


class View:
    """A fitted pair beside rows that it was not fitted to.

    Args:
        pair: fitted, on any device.
        entries: the rows by entry, x (N, D) among them.
        shape: (channels, height, width) of an image, or None: the rows are none.
        label: of the rows, or None; the page writes it where a code stands.
        columns: names of the features, or None.
        said: what the page says besides: the pair's name, the data's.
    """

    def __init__(
        self,
        pair: Pair,
        entries: dict[str, Tensor],
        shape: Sequence[int] | None = None,
        label: Tensor | None = None,
        columns: Sequence[str] | None = None,
        **said: Any,
    ) -> None:
        few, home = slice(0, ROWS), next(pair.parameters())
        rows = {name: value[few].to(home.device) for name, value in entries.items()}
        self.pair = pair.eval()
        self.entries = {n: v.to(home.dtype) if v.is_floating_point() else v for n, v in rows.items()}
        self.label, self.columns, self.said = None if label is None else label[few], columns, said
        self.x = self.entries["x"]
        image = shape is not None and shape[0] in (1, 3) and min(shape[1:]) > 1  # of several rows and columns
        self.shape = tuple(shape) if shape is not None and image else None
        self.low, self.high = _levels(self.x, self.shape is not None)
        self.latents = _vectors(pair, self.entries)

    def about(self) -> dict[str, Any]:
        """What the page shows before anything is touched."""
        return {
            **self.said,
            "rows": len(self.x),
            "features": self.x.shape[1],
            "shape": self.shape,
            "columns": self.columns,
            "latents": self.latents,
            "exact": self.pair.exact,
            "particles": 1 if self.pair.exact else PARTICLES,
            "label": None if self.label is None else self.label.tolist(),
        }

    def codes(self, latent: str) -> dict[str, Any]:
        """The posterior mean of a latent given each row, (N, K), and the two coordinates along which rows differ most."""
        with own_generators(0):
            codes = condition(self.pair, self.entries).sample(DRAWS, DRAWS)[self._known(latent)].mean(0).cpu()
        order = codes.std(0).argsort(descending=True)[:2].sort().values
        return {"codes": _rounded(codes), "axes": order.tolist()}

    def decode(self, row: int, latent: str, z: Sequence[float]) -> dict[str, Any]:
        """E[x | z] at a place, the mean over the story's other latents where it has any.

        Args:
            row: whose covariates are used, where the story has some.
            latent: the plane's.
            z: its value, K numbers.
        """
        K = self.latents[self._known(latent)]
        if len(z) != K:
            raise Problem(f"z has {len(z)} coordinates", f"{latent} has {K}", f"{K} numbers")
        draws = 1 if len(self.latents) == 1 else OTHERS
        place = torch.as_tensor(z).to(self.x).expand(draws, 1, K)
        given = {
            name: value[[self._there(row)]].expand(draws, *value.shape[1:])
            for name, value in self.entries.items()
            if name != "x" and not value[row].isnan().any()
        }
        with own_generators(0), torch.no_grad():
            story = poutine.trace(poutine.condition(self.pair.model, data={latent: place}))
            law = story.get_trace(size=draws, **given).nodes["x"]["fn"]
            mean = expectation(law).expand(draws, -1).mean(0, keepdim=True)
        return {"image": self._greys(mean)}

    def infer(self, row: int, seen: Tensor) -> dict[str, Any]:
        """A row's posterior given some of its entries.

        Args:
            row: which one.
            seen: True = observed, (D,); entries that the data lack stay missing.

        Returns:
            ``mean``, ``sd`` of x given what is seen, and five ``draws`` of complete rows; ``z``, draws of each latent;
            ``evidence`` in nats, and ``ess``, the effective number of importance samples, or None where no row has its own.
        """
        x = self.x[[self._there(row)]]
        if seen.shape != x[0].shape:
            raise Problem(f"seen has the shape {tuple(seen.shape)}", f"a row has {x.shape[1]} entries", "one a feature")
        rows = {name: value[[row]] for name, value in self.entries.items()}
        mask = seen[None].to(x.device) & ~x.isnan()
        with own_generators(0), torch.no_grad():  # the same draws each time: what moves is moved by the mask
            posterior = condition(self.pair, rows, {"x": mask})
            mean = posterior.impute_mean(PARTICLES)
            z = posterior.resampled(posterior.table, DRAWS, PARTICLES)  # (S, 1, 1, K)
            complete = completed(self.pair, posterior.table, z, DRAWS)[:, 0]  # (S, D)
            weights = _weights(posterior)
        spread = self.low + 2 * complete.std(0, keepdim=True)  # on the scale of x: half of its range is white
        return {
            "mean": self._greys(mean),
            "sd": self._greys(spread),
            "draws": self._greys(complete[:IMPUTATIONS]),
            "z": {name: _rounded(z[name][:, 0, 0].cpu()) for name in self.latents},
            "evidence": None if weights is None else round(float(log_mean_exp([weights])), 2),
            "ess": None if weights is None else round(float(effective(weights)), 1),
        }

    def row(self, row: int) -> dict[str, Any]:
        """A row as it is, and which of its entries the data have."""
        x = self.x[[self._there(row)]]
        return {"image": self._greys(x), "there": (~x[0].isnan()).int().tolist()}

    def _greys(self, x: Tensor) -> str:
        """Values (n, D) as bytes: 0 at the lowest, 255 at the highest value of the data; 0 where missing."""
        share = ((x - self.low) / (self.high - self.low)).clamp(0, 1).nan_to_num(0.0)
        return base64.b64encode((GREYS * share).round().byte().cpu().numpy().tobytes()).decode()

    def _known(self, latent: str) -> str:
        if latent not in self.latents:
            raise Problem(
                f"there is no latent {latent!r}", "a misspelt name", f"one of: {', '.join(self.latents) or 'none'}"
            )
        return latent

    def _there(self, row: int) -> int:
        if not 0 <= row < len(self.x):
            raise Problem(f"there is no row {row}", f"the page has {len(self.x)}", f"0 to {len(self.x) - 1}")
        return row


def _vectors(pair: Pair, entries: dict[str, Tensor]) -> dict[str, int]:
    """The story's latents that are one vector of real numbers a row, by name, and their sizes, in the order drawn."""
    shared = condition(pair, {name: value[:1] for name, value in entries.items()}).global_latents
    laws = {n: site["fn"] for n, site in pair.sites(entries).items() if n not in pair.entries and n not in shared}
    return {
        n: law.event_shape[0] for n, law in laws.items() if len(law.event_shape) == 1 and not law.support.is_discrete
    }


def _weights(posterior: Posterior) -> Tensor | None:
    """log p(x_o, z) - log q(z) of draws, (P, 1); None where a row has none: a global latent, a guide without chance."""
    if posterior.global_latents:
        return None
    try:
        return posterior.log_weights(posterior.table, 1 if posterior.pair.exact else PARTICLES)
    except Problem:
        return None


def _levels(x: Tensor, image: bool) -> tuple[Tensor, Tensor]:
    """What is black and what is white, (D,): of all pixels of images, of each column of a table."""
    low = x.nan_to_num(torch.inf).amin(0).clamp(max=1e30)
    high = x.nan_to_num(-torch.inf).amax(0).clamp(min=-1e30)
    if image:
        low, high = low.amin().expand_as(low), high.amax().expand_as(high)
    return low, torch.where(high > low, high, low + 1)


def _rounded(values: Tensor) -> list[Any]:
    return torch.round(values.double(), decimals=3).tolist()
