"""How well a pair takes scenes apart, on scenes whose sprites are known.

*ELBO*, *reconstruction* and *KL* are nats a scene, by one draw; *squared error* is that of E[x | z] at the mean code, a pixel.

*Slots.* Each entity's mean code is decoded alone; a pixel is shown where a colour's probability is above 1/2. *Overlap* is the
intersection over union of a true sprite with the slot that it is matched to, one to one, so that the sum over a scene is largest,
averaged over sprites. *In one slot*, *in several*: the share of sprites that overlap by more than 1/2 with one slot, with more.

*Exchange.* In pairs of scenes the slot with the largest KL, of the sprite that it overlaps most, changes places with that of
the other scene. *Exchanged, squared error* is against the scenes whose true sprites are exchanged so; *same pairs as they are*
is that of their reconstructions. Pairs in which a leading slot shows no sprite are left out.

*Counting.* The number of places of the KL map above a threshold, which is the number of chosen slots above it wherever there are
more slots than sprites. The threshold is the best on some scenes and is tried on others. Beside it the count as told by one
number of a scene, cut at as many thresholds as there may be sprites: the KL of all slots (*its KL*), the lit pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import ppvae
from ppvae import evaluate
from ppvae.data.sprites import Factors, Scenes, scenes_of, sprites
from ppvae.reproduce.run import Place

COUNTED = ("right counts, thresholds found, %", "right counts, new scenes, %")
PART = 200  # scenes at a time


@torch.no_grad()
def likelihoods(pair: ppvae.Pair, scenes: Scenes) -> dict[str, float]:
    """The bound and its halves in nats a scene, and the squared error a pixel."""
    rate, distortion = evaluate.rate_distortion(pair, scenes.x, draws=1)
    bound = -(rate + distortion).double()
    error = [(means(pair, codes(pair, x)) - x).square().mean(1) for x in scenes.x.split(PART)]
    return {
        "ELBO": float(bound.mean()),
        "ELBO, standard error": float(bound.std() / len(bound) ** 0.5),
        "reconstruction": -float(distortion.mean()),
        "KL": float(rate.mean()),
        "squared error x 1000": 1000 * float(torch.cat(error).mean()),
    }


# --- slots ----------------------------------------------------------------------------------------------


@torch.no_grad()
def codes(pair: ppvae.Pair, x: Tensor) -> Tensor:
    """E_q[z | x], (N, K, E), slots in the order of their KL, largest first."""
    return pair.encoder(x.to(next(pair.parameters()))).mean.squeeze(1).cpu()


@torch.no_grad()
def means(pair: ppvae.Pair, z: Tensor) -> Tensor:
    """E[x | z] of codes (…, K, E) of any number of slots, (…, D)."""
    return pair.decoder(z.unsqueeze(-3).to(next(pair.parameters()))).mean.cpu()


def alone(pair: ppvae.Pair, z: Tensor) -> Tensor:
    """E[x | z_k], each slot decoded by itself: z (N, K, E) to (N, K, D)."""
    return means(pair, z.unsqueeze(-2))


def overlaps(shown: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of what each slot shows with each sprite: (N, K, P) and (N, M, P) bool to (N, K, M); 0 of nothing."""
    shown, masks = shown.float(), masks.float()
    both = shown @ masks.mT
    either = shown.sum(-1)[..., None] + masks.sum(-1)[..., None, :] - both
    return both / either.clamp(min=1)


def slot_overlaps(pair: ppvae.Pair, scenes: Scenes) -> Tensor:
    """`overlaps` of a pair's slots, each decoded alone, (N, K, M)."""
    parts = zip(scenes.x.split(PART), scenes.masks.split(PART), strict=True)
    return torch.cat([overlaps(lit(alone(pair, codes(pair, x))), masks) for x, masks in parts])


def lit(x: Tensor) -> Tensor:
    """Where a pixel is likelier than not to have a colour: (…, 3 P) to (…, P) bool."""
    return x.unflatten(-1, (3, -1)).amax(-2) > 0.5


def matched(overlap: Tensor) -> Tensor:
    """What each sprite shares with the slot matched to it, (K, M) to (M,): one to one, so that the sum is largest."""
    slot, sprite = linear_sum_assignment(overlap.numpy(), maximize=True)
    found = overlap.new_zeros(overlap.shape[1])
    found[sprite] = overlap[slot, sprite]
    return found


def slots(pair: ppvae.Pair, scenes: Scenes) -> dict[str, float]:
    """How the sprites lie in the slots."""
    overlap, exists = slot_overlaps(pair, scenes), scenes.factors.exists
    best = torch.stack([matched(one) for one in overlap])[exists]
    holding = (overlap > 0.5).sum(1)[exists]
    return {
        "overlap": float(best.mean()),
        "in one slot, %": 100 * float((holding == 1).double().mean()),
        "in several, %": 100 * float((holding > 1).double().mean()),
    }


# --- exchange -------------------------------------------------------------------------------------------


def exchange(pair: ppvae.Pair, scenes: Scenes) -> dict[str, float]:
    """Squared errors of scenes 2 i and 2 i + 1 after their leading slots changed places, and before."""
    half = len(scenes.x) // 2 * 2
    scenes = Scenes(
        scenes.x[:half], scenes.counts[:half], Factors(*(f[:half] for f in scenes.factors)), scenes.masks[:half]
    )
    first = slot_overlaps(pair, scenes)[:, 0]  # (N, M)
    leading, shows = first.argmax(1), first.amax(1) > 0
    both = (shows & partner(shows)).nonzero().squeeze(1)
    if not len(both):
        return {}
    z = torch.cat([codes(pair, x) for x in scenes.x.split(PART)])[both]
    truth = scenes_of(exchanged(scenes.factors, leading), round((scenes.x.shape[1] / 3) ** 0.5)).x[both]
    moved = torch.cat([partner(z[:, :1]), z[:, 1:]], 1)
    before, after = (
        torch.cat(
            [(means(pair, c) - x).square().mean(1) for c, x in zip(code.split(PART), goal.split(PART), strict=True)]
        )
        for code, goal in ((z, scenes.x[both]), (moved, truth))
    )
    return {
        "exchanged, squared error x 1000": 1000 * float(after.mean()),
        "same pairs as they are": 1000 * float(before.mean()),
    }


def exchanged(of: Factors, leading: Tensor) -> Factors:
    """Factors after sprite ``leading`` (N,) of scene 2 i changed places with that of scene 2 i + 1."""
    N = torch.arange(len(leading))

    def swap(factor: Tensor) -> Tensor:
        return factor.index_put((N, leading), partner(factor[N, leading]))

    return Factors(*(swap(factor) for factor in of))


def partner(rows: Tensor) -> Tensor:
    """Rows 2 i and 2 i + 1 in each other's place."""
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


# --- counting -------------------------------------------------------------------------------------------


def threshold(kl: Tensor, count: Tensor) -> float:
    """The threshold under which the number of values above it is most often the count: kl (N, P), count (N,).

    The count c is met by thresholds from the (c + 1)-th largest value up to, not including, the c-th. The best stretch between
    two ends of such ranges is found exactly, and its middle returned.
    """
    ends = torch.cat([kl.new_full((len(kl), 1), torch.inf), kl.sort(1, descending=True).values], 1).double()
    ends = torch.cat([ends, ends.new_full((len(ends), 1), -torch.inf)], 1)
    low, high = (ends.gather(1, count[:, None] + i).squeeze(1) for i in (1, 0))
    values, order = torch.cat([low, high]).sort()
    met = torch.cat([torch.ones(len(low)), -torch.ones(len(high))])[order].cumsum(0)
    last = torch.cat([values[1:] > values[:-1], torch.tensor([True])])  # of equal ends: all have been passed
    best = int(torch.where(last[:-1], met[:-1], -torch.inf).argmax())
    below, above = values[best].clamp(min=float(kl.min()) - 1), values[best + 1].clamp(max=float(kl.max()) + 1)
    return float((below + above) / 2)


def above(kl: Tensor, at: float) -> Tensor:
    """The number of values above a threshold, (N, P) to (N,)."""
    return (kl > at).sum(1)


def counts(
    pairs: dict[str, ppvae.Pair], most: int, size: int, found_on: int, tried_on: int, seed: int
) -> dict[Place, float]:
    """The share of right counts in %, by what tells them and by scenes: those that thresholds were found on, and new ones."""
    from sklearn.tree import DecisionTreeClassifier

    seen, new = (evidence(pairs, most, size, rows, seed, first) for first, rows in ((10, found_on), (500, tried_on)))
    count = seen.pop("count"), new.pop("count")
    told: dict[str, list[Tensor]] = {}
    for way, value in seen.items():
        if value.shape[1] > 1:  # a map
            at = threshold(value, count[0])
            told[way] = [above(part[way], at) for part in (seen, new)]
        else:
            cut = DecisionTreeClassifier(max_leaf_nodes=most + 1, random_state=0).fit(value.numpy(), count[0].numpy())
            told[way] = [torch.from_numpy(cut.predict(part[way].numpy())) for part in (seen, new)]
    usual = int(np.bincount(count[0].numpy()).argmax())
    told["Most frequent"] = [torch.full_like(part, usual) for part in count]
    return {
        (way, column): 100 * float((answer == truth).double().mean())
        for way, answers in told.items()
        for column, answer, truth in zip(COUNTED, answers, count, strict=True)
    }


@torch.no_grad()
def evidence(pairs: dict[str, ppvae.Pair], most: int, size: int, rows: int, seed: int, first: int) -> dict[str, Tensor]:
    """What counts are told by, of so many new scenes: maps (N, P) by the pairs' names, (N, 1) each the KL of all slots of every
    pair and the lit pixels; and the counts (N,)."""
    found: dict[str, list[Tensor]] = {}
    for scenes in parts(rows, most, size, 1_000_000 * (seed + 1) + 1000 * first):
        values = {"Lit pixels": lit(scenes.x).sum(1, keepdim=True).float(), "count": scenes.counts}
        for name, pair in pairs.items():
            x = scenes.x.to(next(pair.parameters()))
            if hasattr(pair.encoder, "kl_map"):
                values[name] = pair.encoder.kl_map(x).flatten(1).cpu()
            values[f"{name}, its KL"] = _rate(pair, x)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in found.items()}


def parts(rows: int, most: int, size: int, seed: int) -> Iterator[Scenes]:
    """So many scenes, few at a time, each part of a seed of its own."""
    for i, start in enumerate(range(0, rows, PART)):
        yield sprites(min(PART, rows - start), most, size, seed + i)


def _rate(pair: ppvae.Pair, x: Tensor) -> Tensor:
    q = pair.encoder(x).base_dist
    return (
        kl_divergence(Normal(q.loc, q.scale), Normal(torch.zeros_like(q.loc), 1.0))
        .flatten(1)
        .sum(1, keepdim=True)
        .cpu()
    )
