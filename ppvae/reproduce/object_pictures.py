"""Pictures of scenes, and of what two VAEs make of them."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib import colormaps
from torch import Tensor

import ppvae
from ppvae.data.sprites import sprites
from ppvae.plots.style import bare
from ppvae.reproduce.object_scores import codes, means, partner
from ppvae.reproduce.pictures import save, sheet
from ppvae.reproduce.run import Run

SHOWN = 10  # scenes side by side
SPAN, STEPS, MOVED = 2.25, 9, 6  # of a traversal, in standard deviations of the prior; coordinates that it shows
MOVES = f"coordinates moved from -{SPAN} to {SPAN}, those with the largest |mean| / sd on top"


@torch.no_grad()
def draw(run: Run, mark: str, mvae: ppvae.Pair, vae: ppvae.Pair, early: ppvae.Pair, most: int, size: int) -> None:
    """Every picture of one multi-entity VAE, of scenes that have at least two sprites, samples and reconstructions of the plain one
    beside; ``mark`` is part of the files' names."""
    scenes = sprites(20 * SHOWN, most, size, seed=77)
    x = scenes.x[scenes.counts >= 2][:SHOWN]
    one = scenes.x[scenes.counts == 2][:1]
    for name, title, rows in (
        ("reconstructions", "E[x | z] of new scenes, and of draws of the prior", _reconstructions(x, mvae, vae)),
        ("kl", "KL of each place to the prior, each map from 0 to its largest", _maps(x, mvae, early)),
        ("exchange", "the slots with the largest KL change places: columns 1 and 2, 3 and 4, …", _exchange(x, mvae)),
        ("sequential", "slots by their KL, one more in each row, then each alone", _sequential(x, mvae)),
        ("traversal", f"MVAE, one object: {MOVES}", _traversal(one, mvae)),
    ):
        _save(run, f"objects-{mark}-{name}.png", title, rows, size)


@torch.no_grad()
def draw_plain(run: Run, mark: str, vae: ppvae.Pair, most: int, size: int) -> None:
    """The traversal of the plain VAE, of the scene of which `draw` moves one object."""
    scenes = sprites(20 * SHOWN, most, size, seed=77)
    one = scenes.x[scenes.counts == 2][:1]
    _save(run, f"objects-{mark}-traversal-VAE.png", f"VAE: {MOVES}", _traversal(one, vae), size)


Rows = dict[str, Tensor]  # what a row shows, and its images (M, 3 S²)


def _reconstructions(x: Tensor, mvae: ppvae.Pair, vae: ppvae.Pair) -> Rows:
    drawn = {
        name: means(pair, torch.randn(len(x), pair.decoder.entities, pair.decoder.latents))
        for name, pair in (("MVAE, sample", mvae), ("VAE, sample", vae))
    }
    return {"scene": x, "MVAE": means(mvae, codes(mvae, x)), "VAE": means(vae, codes(vae, x)), **drawn}


def _maps(x: Tensor, mvae: ppvae.Pair, early: ppvae.Pair) -> Rows:
    found = {"scene": x}
    for name, pair in (("early", early), ("late", mvae)):
        kl = pair.encoder.kl_map(x.to(next(pair.parameters()))).cpu()
        fold = round((x.shape[1] / 3) ** 0.5) // kl.shape[-1]
        kl = (kl / kl.amax((1, 2), keepdim=True)).repeat_interleave(fold, 1).repeat_interleave(fold, 2)
        shade = torch.from_numpy(colormaps["viridis"](kl.numpy())[..., :3])  # (M, S, S, 3)
        found |= {name: means(pair, codes(pair, x)), f"{name}, KL": shade.permute(0, 3, 1, 2).flatten(1).to(x)}
    return found


def _exchange(x: Tensor, mvae: ppvae.Pair) -> Rows:
    z = codes(mvae, x)
    moved = torch.cat([partner(z[:, :1]), z[:, 1:]], 1)
    return {"scene": x, "MVAE": means(mvae, z), "exchanged": means(mvae, moved)}


def _sequential(x: Tensor, mvae: ppvae.Pair) -> Rows:
    z = codes(mvae, x)
    K = z.shape[1]
    growing = {f"1 to {k}": means(mvae, z[:, :k]) for k in range(1, K + 1)}
    return {"scene": x, **growing, **{f"{k} alone": means(mvae, z[:, k - 1 : k]) for k in range(1, K + 1)}}


def _traversal(x: Tensor, pair: ppvae.Pair) -> Rows:
    """The first slot's coordinates, one at a time; the other slots stay as they are."""
    q = pair.encoder(x.to(next(pair.parameters())))
    mean, sd = q.mean[0, 0].cpu(), q.stddev[0, 0].cpu()  # (K, E)
    found = {}
    for i in (mean[0].abs() / sd[0]).argsort(descending=True)[:MOVED].tolist():
        z = mean.repeat(STEPS, 1, 1)
        z[:, 0, i] = torch.linspace(-SPAN, SPAN, STEPS)
        found[f"z{i + 1}"] = means(pair, z)
    return found


def _save(run: Run, name: str, title: str, rows: Rows, size: int) -> None:
    columns = len(next(iter(rows.values())))
    figure: Any = sheet(columns + 1, len(rows) + 0.5)
    ax = figure.subplots()
    images = torch.stack(list(rows.values())).unflatten(-1, (3, size, size))  # (R, C, 3, S, S)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.5)
    ax.imshow(framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1), interpolation="nearest")
    bare(ax, title)
    ax.set_yticks([(size + 2) * (row + 0.5) for row in range(len(rows))], list(rows))
    save(run, name, figure)
