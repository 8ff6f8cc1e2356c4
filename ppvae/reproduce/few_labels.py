"""What tables of few labels among many rows share: which rows show their class, how often, and who else could tell."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from joblib import Parallel, delayed
from torch import Tensor

from ppvae.data.chance import generator
from ppvae.reproduce.run import Place, Run

M2, NEAREST = "M2", "nearest label"
ERROR = "error %"
PICTURES = ("pictures", "")  # the place of what a seed hands over to be drawn
SHARE = 0.2  # of the table's rows show their class, once those that do are repeated


def few(label: Tensor, each: int, seed: int) -> Tensor:
    """The places of so many rows of each class, drawn by the seed."""
    order = torch.randperm(len(label), generator=generator(seed))
    return torch.cat([order[label[order] == c][:each] for c in label.unique()])


def repeated(x: Tensor, label: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """The rows, none of which shows its class, and those of ``shown``, which do, so often that they are a fifth of all."""
    times = max(1, round(SHARE / (1 - SHARE) * len(x) / len(shown)))
    y = torch.full((len(x),), torch.nan)
    return {
        "x": torch.cat([x, x[shown].repeat(times, 1)]),
        "y": torch.cat([y, label[shown].to(y).repeat(times)]),
    }


def error_percent(probabilities: Tensor, truth: Tensor) -> float:
    return 100 * float((probabilities.argmax(-1).cpu() != truth).double().mean())


def classifiers() -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    return {NEAREST: KNeighborsClassifier(1), "logistic regression": LogisticRegression(max_iter=2000)}


def side_by_side(run: Run, one: Callable[..., dict[Place, Any]], jobs: list[tuple]) -> list[dict[Place, Any]]:
    """Each seed's result, in the seeds' order, on as many cores as there are."""
    run.say(f"{len(jobs)} seeds, side by side: the first is told when it is done")
    workers = Parallel(n_jobs=min(len(jobs), os.cpu_count() or 1), return_as="generator")
    found = []
    for scores in workers(delayed(_alone)(one, job) for job in jobs):
        found.append(scores)
        run.say(f"seed {len(found)} of {len(jobs)}")
    return found


def _alone(one: Callable[..., dict[Place, Any]], job: tuple) -> dict[Place, Any]:
    if os.cpu_count() != 1 and not torch.cuda.is_available():
        torch.set_num_threads(1)  # the jobs go side by side
    return one(*job)
