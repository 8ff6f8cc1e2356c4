"""Scenes of sprites taken apart into objects, unsupervised: the multi-entity VAE beside a plain VAE of as many latents.

New scenes at every step (`ppvae.data.sprites`, colours that are bits). K entities of 12 latents, or one of 12 K; the same
convolutions, the same steps; Adam from 1e-3 by a cosine to 0. ``objects``: up to 3 sprites, K = 5; ``objects-8``: up to 8
sprites, K = 10. *KL x 3* is trained with three times the KL and scored by the bound as the others are. What the
columns are is said in `ppvae.reproduce.object_scores`.

The published figure is of 64 x 64 scenes of true dSprites in any colour, 3 million steps, and the cross entropy of colours.

``--figures``: reconstructions and samples, maps of the KL early and late, exchanged objects, objects added one by one, one
object's latents moved; the plain VAE beside wherever it has one. "Early" is a fit of a twentieth of the steps.

Budgets: cpu, 32 x 32, 40,000 steps of 8 scenes, about 55 minutes of one core; full, 64 x 64, 3 million, for a GPU.

Reference: Nash et al. 2017, "The multi-entity variational autoencoder".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

import ppvae
from ppvae.data.sprites import Anew, sprites
from ppvae.machine import own_generators
from ppvae.reproduce import object_pictures, object_scores
from ppvae.reproduce.run import Cell, Place, Run, cells, seeds

MVAE, PRESSED, VAE = "Multi-entity VAE", "Multi-entity VAE, KL x 3", "VAE"
KL_WEIGHT = {MVAE: 1.0, PRESSED: 3.0, VAE: 1.0}
LATENTS = 12  # of an entity
BATCH = 8
PUBLISHED = {(MVAE, object_scores.COUNTED[0]): 74.4, (MVAE, object_scores.COUNTED[1]): 72.6}


class Budget(NamedTuple):
    """What is spent: pixels a side, widths, new scenes that are called an epoch, epochs, scenes to score, to find thresholds on,
    and to try them on."""

    size: int
    hidden: tuple[int, ...]
    rows: int
    epochs: int
    scored: int
    found_on: int
    tried_on: int


class Scale(NamedTuple):
    """Which scenes: the largest number of sprites, and the entities to explain them by."""

    most: int
    entities: int


BUDGETS = {
    "smoke": Budget(16, (4, 4), 80, 1, 40, 60, 60),
    "cpu": Budget(32, (24, 48), 2000, 160, 2000, 6400, 12_800),
    "full": Budget(64, (16, 32, 64), 2000, 12_000, 10_000, 6400, 12_800),
}


@seeds(1)
def objects(run: Run) -> list[Cell]:
    """Up to three sprites."""
    return cells([_one_seed(run, Scale(3, 5), seed) for seed in range(run.seeds)], PUBLISHED)


@seeds(1)
def objects_8(run: Run) -> list[Cell]:
    """Up to eight sprites."""
    return cells([_one_seed(run, Scale(8, 10), seed) for seed in range(run.seeds)], {})


TABLES = {"objects": objects, "objects-8": objects_8}


def _one_seed(run: Run, of: Scale, seed: int) -> dict[Place, float]:
    spent = BUDGETS[run.budget]
    steps = spent.epochs * spent.rows // BATCH
    run.data["sprites"] = (
        f"made anew: {spent.size} x {spent.size}, up to {of.most} sprites, colours of bits; {steps} steps of {BATCH} scenes"
    )
    pairs = {name: fitted(run, name, of, spent, spent.epochs, seed) for name in KL_WEIGHT}
    found = scored(run, pairs, of, spent, seed)
    if run.figures is not None and seed == 0:
        object_pictures.draw_plain(run, str(of.most), pairs[VAE], of.most, spent.size)
        for name, mark in ((MVAE, ""), (PRESSED, "-kl-x-3")):
            early = fitted(run, name, of, spent, max(1, spent.epochs // 20), seed)
            with own_generators(seed):
                object_pictures.draw(run, f"{of.most}{mark}", pairs[name], pairs[VAE], early, of.most, spent.size)
    return found


def fitted(run: Run, name: str, of: Scale, spent: Budget, epochs: int, seed: int) -> ppvae.Pair:
    """One of the VAEs, fitted to scenes that are new at every step."""
    run.say(f"{name}, seed {seed}: {epochs} epochs of {spent.rows} new scenes")
    features, options = 3 * spent.size**2, {"hidden": spent.hidden, "channels": 3}
    with own_generators(seed):
        if name == VAE:
            pair = ppvae.make("single_entity_vae", features, LATENTS * of.entities, **options)
        else:
            pair = ppvae.make("multi_entity_vae", features, LATENTS, entities=of.entities, **options)
    fit = ppvae.fit(
        pair,
        torch.zeros(spent.rows, 1),
        objective=ppvae.elbo(kl=ppvae.beta(KL_WEIGHT[name])),
        redraw=Anew(of.most, spent.size),
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
    )
    run.say(f"{name}, seed {seed}: bound {fit.history[-1]['bound']:.1f}")
    return pair


def scored(run: Run, pairs: dict[str, ppvae.Pair], of: Scale, spent: Budget, seed: int) -> dict[Place, float]:
    """Every figure of each, on scenes that are new."""
    found: dict[Place, float] = {}
    scenes = sprites(spent.scored, of.most, spent.size, seed=1000 + seed)
    for name, pair in pairs.items():
        run.say(f"{name}, seed {seed}: scores")
        with own_generators(seed):
            scores: dict[str, Any] = object_scores.likelihoods(pair, scenes) | object_scores.slots(pair, scenes)
        if name != VAE:
            scores |= object_scores.exchange(pair, scenes)
        found |= {(name, column): value for column, value in scores.items()}
    run.say(f"seed {seed}: counts")
    return found | object_scores.counts(pairs, of.most, spent.size, spent.found_on, spent.tried_on, seed)
