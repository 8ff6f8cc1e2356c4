"""Tables of numbers from the UCI repository, as the literature on missing entries uses them: no target, no categories."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ppvae.data.chance import split
from ppvae.data.dataset import Dataset
from ppvae.data.sources import Source, fetch

GITHUB = "https://raw.githubusercontent.com"
NICA = f"{GITHUB}/TrungTin98/NICA/cde263c198b86127c38ced611ab2c5b554bf7769/data"
HIVAE = f"{GITHUB}/probabilistic-learning/HI-VAE/f10e4c85c59992b2221642f7f1167fcca8f61e49"
GAIN = f"{GITHUB}/jsyoon0823/GAIN/e2e4b54c531949c0b8cb516390bde2887d2065c3/data"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"


class _Table(NamedTuple):
    sha256: str  # of the first `columns` columns as float64
    columns: int
    urls: tuple[str, ...]
    numeric: tuple[int, ...] | None = None  # of these; None: all
    what: str = ""


TABLES = {
    "concrete": _Table(
        "88ff8d37150bec1a33f990b57d23331f99b1594498ec9a2ff3a2396a8e5824ab",
        8,
        (f"{NICA}/concrete.csv",),
        what="ingredients and age, not the strength",
    ),
    "wine_red": _Table(
        "d4f6a6d672e0ee31d41fdd93b4b58985b45a31f2f971499c18137c42229278ac",
        12,
        (f"{NICA}/wine_red.csv", f"{UCI}/wine-quality/winequality-red.csv"),
        what="with the quality",
    ),
    "wine_white": _Table(
        "8cc6071e55becf6ae84cdad82ef0b43ede7f74e6d85599fa8098d98b15f47b9d",
        12,
        (f"{NICA}/wine_white.csv", f"{UCI}/wine-quality/winequality-white.csv"),
        what="with the quality",
    ),
    "banknote": _Table(
        "51d78de1717ccad9798c90cf61c561c9524baddd098421db30f5a4f1c8f71974",
        4,
        (f"{UCI}/00267/data_banknote_authentication.txt",),
        what="without the class",
    ),
    "letter": _Table(
        "692f7bb7abde2df4d93a3251c561b91d3e6a76a1110ac657679550e1d35921d0",
        16,
        (f"{GAIN}/letter.csv",),
        what="without the letter",
    ),
    "hivae_wine": _Table(
        "351c8e4ce1f08b3b624df46ed9828ed7ae15f588afe5e7e5bc1d254cc87b2a49",
        12,
        (f"{HIVAE}/Wine/data.csv",),
        what="white and red together, without the colour",
    ),
    "hivae_defaultcredit": _Table(
        "53d113955a17721e28defe8c1fd930798b42a982271671d9b3f1a2de8dfe22c3",
        23,
        (f"{HIVAE}/defaultCredit/data.csv",),
        numeric=(0, 4, *range(11, 23)),
        what="credit, age, bills and payments",
    ),
}


def numbers(name: str, folder: str | Path | None = None) -> torch.Tensor:
    """The table of that name in its own units, (N, D) float64; `ppvae.data.load` gives it standardised."""
    if name == "breast":  # scikit-learn carries it
        from sklearn.datasets import load_breast_cancer

        return torch.from_numpy(load_breast_cancer().data)
    table = TABLES[name]
    array = fetch(Source(table.sha256, ("uci.npz", f"{name}.csv"), table.urls, name, table.columns), folder)
    x = torch.from_numpy(array.copy())
    return x if table.numeric is None else x[:, list(table.numeric)]


def _load(name: str, folder: str | Path | None = None) -> Dataset:
    x = numbers(name, folder)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).float()
    scaling = f"columns standardised over all rows, {WHAT[name]}"
    return Dataset(name, z, split(len(z)), None, (1, 1, z.shape[1]), scaling, "normal")


WHAT = {"breast": "without the diagnosis", **{name: table.what for name, table in TABLES.items()}}
MAKERS = {name: partial(_load, name) for name in WHAT}
