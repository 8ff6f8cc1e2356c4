"""Pictures of objects of parts: samples, completions, traversals, interpolations, what the latents hold."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ppvae
from ppvae.data.shapes import Shapes
from ppvae.evaluate import symmetry, units
from ppvae.plots.clouds import cloud
from ppvae.plots.style import COLOURS
from ppvae.plots.surfaces import METHODS, surfaces
from ppvae.reproduce.pictures import save, sheet
from ppvae.reproduce.run import Run

COLUMNS = 6
STEPS = torch.linspace(-3, 3, 7)


class Drawn(NamedTuple):
    """What a class's pictures are made from.

    Attributes:
        made: the class, with its noise.
        test: rows of x and exists.
        samples: the class without noise, then by model objects of its story, (N, D), NaN where absent.
        vae: the fitted ShapeVAE whose latents are shown.
        truth, given, exists: objects of which parts were hidden; completions of them by model.
        recovered: test objects, their normals as they were recovered from the points, (N, D).
    """

    made: Shapes
    test: dict[str, Tensor]
    samples: dict[str, Tensor]
    vae: ppvae.Pair
    truth: Tensor
    given: Tensor
    exists: Tensor
    completions: dict[str, Tensor]
    recovered: Tensor


def draw(run: Run, of: Drawn) -> None:
    """Every picture of a class."""
    _samples(run, of)
    _completions(run, of)
    _traversals(run, of)
    _interpolations(run, of)
    _normals(run, of)
    _surfaces(run, of)
    _numbers(run, of)


def oriented(x: Tensor) -> Tensor:
    """Rows (N, D) with normals of unit length."""
    values = x.unflatten(-1, (-1, 6))
    normals = torch.nn.functional.normalize(values[..., 3:], dim=-1)
    return torch.cat([values[..., :3], normals], -1).flatten(-2)


def _board(run: Run, of: Drawn, name: str, x: Tensor, columns: int, titles: list[str], changed: Any = None) -> None:
    _keep(run, of, name, cloud(oriented(x), of.made.sizes, titles=titles, columns=columns, changed=changed))


def _keep(run: Run, of: Drawn, name: str, ax: Any) -> None:
    """Save the figure that a plot has made for itself."""
    from matplotlib import pyplot

    save(run, f"{of.made.name}-{name}.png", ax.figure)
    pyplot.close(ax.figure)


def _samples(run: Run, of: Drawn) -> None:
    titles = [name if i == 0 else "" for name in of.samples for i in range(COLUMNS)]
    _board(run, of, "samples", torch.cat([x[:COLUMNS] for x in of.samples.values()]), COLUMNS, titles)


def _completions(run: Run, of: Drawn) -> None:
    """Objects of which the most was hidden: what was given, completions (parts that were completed in colour), the truth."""
    hidden = (of.given.isnan() & ~of.truth.isnan()).sum(-1)
    chosen = hidden.argsort(descending=True)[:COLUMNS]
    count = len(chosen)
    parts = torch.stack([part.isnan().all(-1) for part in of.given[chosen].split(of.made.sizes, -1)], -1)
    rows = {"given": of.given, **of.completions, "truth": of.truth}
    exist = of.exists.repeat_interleave(torch.tensor(of.made.sizes), -1) > 0
    x = torch.cat([torch.where(exist, values, torch.nan)[chosen] for values in rows.values()])
    titles = [name if i == 0 else "" for name in rows for i in range(count)]
    _board(run, of, "completions", x, count, titles, changed=parts.repeat(len(rows), 1).float())


def _decoded(of: Drawn, z: Tensor, exists: Tensor) -> Tensor:
    """E[x | z, e], (N, D), NaN where a part is absent."""
    with torch.no_grad():
        law = of.vae.decoder.x(z, exists)
    return torch.where(law.exists, law.mean, torch.nan)


def _traversals(run: Run, of: Drawn) -> None:
    """One latent from -3 to 3 while the others stand at 0, the three that vary most over rows."""
    found = units(of.vae, of.test)["z"].variance
    order = found.argsort(descending=True)[:3]
    z = torch.zeros(3, len(STEPS), len(found))
    for row, k in enumerate(order):
        z[row, :, k] = STEPS
    exists = of.vae.decoder.parts.bits[:1].expand(3 * len(STEPS), -1)  # the most frequent pattern
    titles = [f"z{int(k) + 1} = {value:g}" for k in order for value in STEPS]
    _board(run, of, "traversals", _decoded(of, z.flatten(0, 1), exists), len(STEPS), titles)


def _interpolations(run: Run, of: Drawn) -> None:
    """From one test object to another of the same parts, along a line between their codes."""
    same = (of.test["exists"] == of.test["exists"][:1]).all(-1).nonzero()[:, 0][:6]
    x, exists = of.test["x"][same], of.test["exists"][same]
    with torch.no_grad():
        code = of.vae.encoder.z(x.nan_to_num(), exists.unsqueeze(-2), ~x.isnan()).mean.squeeze(-2)
    rows, titles = [], []
    for a, b in zip(range(0, len(same) - 1, 2), range(1, len(same), 2), strict=True):
        share = torch.linspace(0, 1, COLUMNS - 1).unsqueeze(-1)
        between = _decoded(of, (1 - share) * code[a] + share * code[b], exists[:1].expand(len(share), -1))
        rows.append(torch.cat([x[a : a + 1], between, x[b : b + 1]]))
        titles += ["from", *[f"{float(s):.2g}" for s in share], "to"]
    _board(run, of, "interpolations", torch.cat(rows), COLUMNS + 1, titles)


def _normals(run: Run, of: Drawn) -> None:
    """The same points with their own normals and with those that were recovered."""
    count = min(COLUMNS, len(of.recovered))
    titles = ["true normals"] + [""] * (count - 1) + ["recovered"] + [""] * (count - 1)
    _board(run, of, "normals", torch.cat([of.test["x"][:count], of.recovered[:count]]), count, titles)


def _surfaces(run: Run, of: Drawn) -> None:
    """Meshes of three objects that the ShapeVAE drew: Poisson where its library is installed, and alpha shapes."""
    methods = METHODS if find_spec("pymeshlab") else ("alpha",)
    if len(methods) < len(METHODS):
        run.say(f"{of.made.name}: without pymeshlab no Poisson surfaces (pip install 'ppvae[surfaces]')")
    _keep(run, of, "surfaces", surfaces(oriented(list(of.samples.values())[-1][:3]), of.made.sizes, methods=methods))


def _numbers(run: Run, of: Drawn) -> None:
    figure = sheet(9, 3.4)
    left, right = figure.subplots(1, 2)
    active = units(of.vae, of.test)["z"].variance.sort(descending=True).values
    left.plot(range(1, len(active) + 1), active, "o-", markersize=3)
    left.axhline(0.01, color="0.5", linestyle=":", label="active above 0.01")
    left.set_yscale("log")
    left.set_xlabel("latent, by rank")
    left.set_ylabel("variance over rows of E[z | x]")
    left.legend()
    left.set_title(f"{of.made.name}: which latents are used", fontsize=10)
    for i, (name, x) in enumerate(of.samples.items()):
        scores = symmetry(x.unflatten(-1, (-1, 6))[..., :3], of.made.mirror)
        right.hist(
            scores.numpy(), bins=30, density=True, histtype="step", linewidth=1.8, color=COLOURS[i + 1], label=name
        )
    right.set_xlabel("mean distance from the mirror image, units of length")
    right.set_ylabel("density")
    right.legend()
    right.set_title("how far from symmetric", fontsize=10)
    save(run, f"{of.made.name}-latents.png", figure)
