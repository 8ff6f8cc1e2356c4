"""Ways to complete a table of numbers and classes: each gives draws of what is missing, classes as codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ppvae import objectives
from ppvae.catalogue import make
from ppvae.conditioning.posterior import condition
from ppvae.fitting.loop import fit
from ppvae.imputation.columns import Columns
from ppvae.imputation.completed import Completed
from ppvae.imputation.ways import factor_analysis, gaussian_uncertain
from ppvae.machine import own_generators
from ppvae.nn.kinds import classes, scales

STEPS, LONG_STEPS = 1000, 6000
PARTICLES, LONG_PARTICLES = 5, 20
BATCH = 64
POOL = 500  # draws of the latents from which a row's are chosen by their weights


@dataclass(frozen=True)
class Layout:
    """What the D columns of a table are.

    Attributes:
        kinds: as of `ppvae.nn.kinds`.
        whole: whether a column of numbers is completed by whole ones.
    """

    kinds: tuple[str, ...]
    whole: tuple[bool, ...]

    @property
    def numbers(self) -> list[int]:
        """The columns without classes."""
        return [j for j, kind in enumerate(self.kinds) if not classes(kind)]

    def is_number(self, column: Tensor) -> Tensor:
        """Whether cells of these columns (M,) are numbers, not classes."""
        return torch.isin(column, torch.tensor(self.numbers, device=column.device, dtype=column.dtype))


Draw = Callable[[Tensor, Layout, int, int], Tensor]


class MixedWay(NamedTuple):
    """One way to complete a table of numbers and classes.

    Attributes:
        draw: (rows (N, D), their layout, S, seed) to complete rows (S, N, D); what it puts where something was observed is
            not used.
        says: what it supposes of a table, in a sentence.
    """

    draw: Draw
    says: str


def complete_mixed(x: Tensor, layout: Layout, way: MixedWay, draws: int, seed: int = 0) -> Completed:
    """Complete a table of numbers and codes; observed entries come back bit for bit.

    What is drawn of numbers stays within the range that was observed, whole where the column is. The ``mean`` is the
    draws' mean of numbers (rounded where whole), the median class of ordinal columns, the class most often drawn of others.

    Args:
        x: (N, D), NaN = missing; every column varies.
        layout: what its columns are.
        way: how.
        draws: S.
        seed: equal seeds give equal numbers.
    """
    drawn, missing = way.draw(x, layout, draws, seed).to(x), x.isnan()
    low, high = torch.where(missing, torch.inf, x).amin(0), torch.where(missing, -torch.inf, x).amax(0)
    for j in layout.numbers:
        values = drawn[..., j].round() if layout.whole[j] else drawn[..., j]
        drawn[..., j] = values.clamp(low[j], high[j])
    mean = torch.stack([_centre(drawn[..., j], kind, layout.whole[j]) for j, kind in enumerate(layout.kinds)], -1)
    return Completed(torch.where(missing, mean, x), torch.where(missing, drawn, x))


def _centre(drawn: Tensor, kind: str, whole: bool) -> Tensor:
    """One value for each cell from draws of a column, (S, N) to (N,)."""
    count = classes(kind)
    if not count:
        return drawn.mean(0).round() if whole else drawn.mean(0)
    if kind.startswith("ordinal"):
        return drawn.median(0).values
    return torch.stack([(drawn == code).sum(0) for code in range(count)]).argmax(0).to(drawn)


# --- the ways -------------------------------------------------------------------------------------


def columns_alone(x: Tensor, layout: Layout, draws: int, seed: int) -> Tensor:
    """Each cell drawn from what was observed in its column: frequencies of classes, the column's own law of numbers."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [seen[torch.randint(len(seen), (draws, len(x)), generator=generator)] for seen in _observed(x)]
    return torch.stack(drawn, -1)


def indicators(x: Tensor, layout: Layout, draws: int, seed: int, *, way: Callable[..., Completed]) -> Tensor:
    """A way for numbers, on numbers warped and classes as indicators: C of a categorical column, the code of an ordinal one.

    Classes are read back from the order of a cell's draws, so that each is drawn nearly as often as its indicator's mean says, and
    draws of cells that go together stay together.
    """
    warped = _Warped(x, layout.numbers)
    Z = warped.forward(x)
    wide = torch.cat([_spread(Z[:, j], kind) for j, kind in enumerate(layout.kinds)], -1)
    loc = wide.nanmean(0)
    unit = (wide - loc).square().nanmean(0).sqrt()
    varies = unit > 1e-9  # a class all of whose cells are hidden does not
    drawn = loc.expand(draws, *wide.shape).clone()
    drawn[..., varies] += way(((wide - loc) / unit)[:, varies], draws, seed).draws * unit[varies]
    widths = [_width(kind) for kind in layout.kinds]
    parts = zip(layout.kinds, drawn.split(widths, -1), _observed(x), strict=True)
    return warped.back(torch.stack([_folded(kind, part, seen) for kind, part, seen in parts], -1))


def story(x: Tensor, layout: Layout, draws: int, seed: int, *, long: bool = False) -> Tensor:
    """The mixed story by the importance-weighted bound, as many steps whatever the rows: counts as counts, other numbers warped."""
    steps, particles = (LONG_STEPS, LONG_PARTICLES) if long else (STEPS, PARTICLES)
    warped = _Warped(x, [j for j in layout.numbers if layout.kinds[j] != "count"])
    kinds = tuple("real" if j in warped.which else kind for j, kind in enumerate(layout.kinds))
    Z = warped.forward(x)
    rows, D = Z.to(torch.get_default_dtype()), x.shape[1]
    with own_generators(seed):
        pair = make(
            "mixed_vae", D, min(10, D), hidden=(64,), kinds=kinds, scales=scales(Z.cpu(), kinds), encoder="experts"
        )
    batch = min(BATCH, len(x))
    fit(
        pair,
        rows[~rows.isnan().all(1)],
        objective=objectives.iw_elbo(particles),
        epochs=max(1, round(steps * batch / len(x))),
        batch_size=batch,
        learning_rate=1e-2,
        seed=seed,
        progress=False,
        device=x.device,
    )
    with own_generators(seed):
        return warped.back(condition(pair, rows).impute(draws, particles=POOL).to(x))


ALONE = "Columns alone"
MIXED_WAYS = {
    ALONE: MixedWay(columns_alone, "A column says nothing of another."),
    "Factor analysis of indicators": MixedWay(
        partial(indicators, way=factor_analysis),
        "All columns follow a few factors that each row has; a class is a number that is 1 where it is there, else 0.",
    ),
    "Gaussian of indicators": MixedWay(
        partial(indicators, way=gaussian_uncertain),
        "Any two columns may be correlated, and draws allow for not knowing quite how; a class is a number that is 1 where it "
        "is there, else 0.",
    ),
    "Mixed story": MixedWay(
        story,
        "All columns follow a few latent variables by a network that is learned, numbers and classes each in their way.",
    ),
    "Mixed story, long": MixedWay(
        partial(story, long=True),
        "All columns follow a few latent variables by a network that is learned for long, numbers and classes each in their way.",
    ),
}


class _Warped:
    """Some columns of a table on scales on which they are symmetric, the others as they are."""

    def __init__(self, x: Tensor, which: list[int]) -> None:
        self.which, self.columns = which, Columns(x[:, which], warp=True) if which else None

    def forward(self, x: Tensor) -> Tensor:
        z = x.clone()
        if self.columns is not None:
            z[:, self.which] = self.columns.forward(x[:, self.which]).to(x)
        return z

    def back(self, z: Tensor) -> Tensor:
        if self.columns is not None:
            z[..., self.which] = self.columns.back(z[..., self.which]).to(z)
        return z


def _observed(x: Tensor) -> list[Tensor]:
    return [column[~column.isnan()] for column in x.unbind(1)]


def _width(kind: str) -> int:
    return classes(kind) if kind.startswith("categorical") else 1


def _spread(column: Tensor, kind: str) -> Tensor:
    """A column (N,) as (N, width), NaN where missing."""
    if not kind.startswith("categorical"):
        return column[:, None]
    found = (column[:, None] == torch.arange(classes(kind), device=column.device)).to(column)
    return found.masked_fill(column.isnan()[:, None], torch.nan)


def _folded(kind: str, drawn: Tensor, seen: Tensor) -> Tensor:
    """Draws (S, N, width) as one number or code each, (S, N); ``seen`` are the column's observed codes."""
    count = classes(kind)
    if not count:
        return drawn[..., 0]
    rank = (drawn.argsort(0).argsort(0) + 0.5) / len(drawn)  # of a cell's draws, in (0, 1)
    if count == 2 and drawn.shape[-1] == 1:
        return (rank > 1 - drawn.mean(0))[..., 0].to(drawn)
    if kind.startswith("ordinal"):
        return drawn[..., 0].round().clamp(0, count - 1)
    chance = drawn.mean(0).clamp(min=0.5 / (1 + len(seen)))
    return (
        (-rank.log() / chance).argmin(-1).to(drawn)
    )  # a race: were the ranks independent c would win as often as chance_c
