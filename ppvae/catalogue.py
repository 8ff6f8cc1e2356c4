"""The catalogue: each module of ``ppvae.guides`` names a pair; make, save and load them by that name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from pathlib import Path
from typing import Any

import torch

from ppvae.errors import Problem
from ppvae.files import read_record, write_record
from ppvae.pair import Pair

RUN = "pair.pt", "best.pt", "last.pt"  # of a run folder, what is read first


def names() -> tuple[str, ...]:
    """The pairs that `make` can build: the modules of ``ppvae.guides``."""
    import ppvae.guides

    return tuple(sorted(m.name for m in pkgutil.iter_modules(ppvae.guides.__path__) if not m.name.startswith("_")))


def maker(name: str) -> types.ModuleType:
    """The guide module of a pair, by name."""
    if name not in names():
        raise Problem(f"there is no pair {name!r}", "a misspelt name", f"one of: {', '.join(names())}")
    return importlib.import_module(f"ppvae.guides.{name}")


def make(name: str, features: int, latents: int, **options: Any) -> Pair:
    """Build a pair of the catalogue.

    Args:
        name: one of `names()`.
        features: D, the columns of x.
        latents: K, the size of the latent (of the top one where there are several).
        **options: what the pair's own ``make`` takes, such as ``hidden=(400, 200)``.
    """
    build = maker(name).make
    known = set(inspect.signature(build).parameters)
    for option in options.keys() - known:
        raise Problem(
            f"{name} has no option {option!r}",
            "a misspelt option, or one of another pair",
            f"one of: {', '.join(sorted(known - {'features', 'latents'})) or 'none'}",
        )
    for what, number in (("features", features), ("latents", latents)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise Problem(
                f"{what} is {number!r}",
                "a count of columns is a whole number of at least 1",
                f"{what}=x.shape[1]" if what == "features" else "latents=2, say",
            )
    pair = build(features, latents, **options)
    plain = {option: tuple(v) if isinstance(v, tuple) else v for option, v in options.items()}  # a file keeps no class
    pair._built = (name, {"features": features, "latents": latents, **plain})
    return pair


def save(pair: Pair, path: str | Path, **notes: Any) -> None:
    """Write a pair of the catalogue to a file: its name, its arguments, its parameters.

    Args:
        pair: as `make` built it.
        path: written whole or not at all.
        **notes: plain values kept beside it (the data it was fitted to, say), returned by `read`.
    """
    if pair._built is None:
        raise Problem(
            "this pair was not built by ppvae.make",
            "a file keeps a name and arguments, not code",
            "put it into guides/ as a module with a make(), or torch.save(pair.state_dict(), path)",
        )
    write_record(path, record_of(pair) | {"notes": notes})


def record_of(pair: Pair) -> dict[str, Any]:
    """What a file keeps of a pair; of one that `make` did not build the parameters alone."""
    name, arguments = pair._built or (None, {})
    dtype = str(next((p.dtype for p in pair.parameters()), torch.float32)).removeprefix("torch.")
    state = pair.state_dict()
    return {"ppvae": 2, "name": name, "arguments": arguments, "dtype": dtype, "state": state, "notes": {}}


def load(path: str | Path) -> Pair:
    """Read a pair that `save` wrote, on the CPU, with ``weights_only=True``: no code in the file is run.

    Of a run folder (``fit(checkpoint=…)``): the pair at the end, or else with the best held-out bound, or else at the last
    checkpoint.
    """
    return read(path)[0]


def read(path: str | Path) -> tuple[Pair, dict[str, Any]]:
    """Read a pair and the notes kept beside it."""
    path = Path(path)
    if path.is_dir():
        held = [path / name for name in RUN if (path / name).is_file()]
        if not held:
            raise Problem(
                f"the folder {path} holds no fitted pair ({', '.join(RUN)})",
                "a folder of something else",
                "one that `ppvae fit` left",
            )
        path = held[0]
    record = read_record(path, sealed=lambda record: record.get("ppvae") != 1)  # those had none
    version = record.get("ppvae")
    if not isinstance(version, int) or version not in (1, 2):
        raise Problem(f"{path} does not hold a pair", "a file of something else", "save it with ppvae.save(pair, path)")
    try:
        name, notes = record["name"], dict(record["notes"])
        if name is not None:
            pair = make(name, **record["arguments"]).to(getattr(torch, record["dtype"]))
            pair.load_state_dict(record["state"])
    except Problem:
        raise
    except Exception as error:  # the makers, torch and Python each raise their own kind
        raise Problem(
            f"what {path} says of the pair {record.get('name')!r} does not fit together",
            f"it was saved by another version of ppvae ({type(error).__name__})",
            "fit it again, or load it with the version that saved it",
        ) from error
    if name is None:
        raise Problem(
            f"the pair in {path} was not built by ppvae.make",
            "a file keeps a name and arguments, not code",
            "build it, and pair.load_state_dict(torch.load(path, weights_only=True)['state'])",
        )
    return pair, notes
