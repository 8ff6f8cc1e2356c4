"""What there is: pairs, data, versions, the machine."""

from __future__ import annotations

import importlib.metadata
import inspect
import os

from rich.table import Column, Table

import ppvae
from ppvae import data
from ppvae.catalogue import maker
from ppvae.cli.shared import Figures, Json, console, machine

NARROW = 80  # columns in which a table of three has no room for words


def list_pairs(json: Json = None) -> None:
    """List the pairs: name, what it is, the options of its `make`."""
    figures = Figures("list", {}, json)
    table = Table(Column("pair", no_wrap=True), "what it is", Column("options", overflow="fold"))  # names are copied
    for name in ppvae.names():
        module = maker(name)
        what = (module.__doc__ or "").strip().splitlines()[0]
        options = [
            str(p).split(":")[0] + (f"={p.default!r}" if p.default is not p.empty else "")
            for n, p in inspect.signature(module.make).parameters.items()
            if n not in ("features", "latents")
        ]
        figures.results[name] = {"what": what, "options": options}
        table.add_row(name, what, "\n".join(options))
        if console.width < NARROW:
            console.print(f"{name}\n  {what}\n  {', '.join(options) or 'no options'}", markup=False)
    if console.width >= NARROW:
        console.print(table)
    figures.write()


def info(json: Json = None) -> None:
    """Tell versions, the machine, and the data sets that can be loaded."""
    figures = Figures("info", {}, json)
    versions = {name: importlib.metadata.version(name) for name in ("ppvae", "pyro-ppl", "torch", "numpy", "arviz")}
    figures.results = {
        "versions": versions,
        "data": list(data.names()),
        "data_folder": os.environ.get("PPVAE_DATA"),
        "pairs": list(ppvae.names()),
    }
    for name, version in versions.items():
        console.print(f"{name:10} {version}")
    for name, value in machine().items():
        console.print(f"{name:10} {value}")
    console.print(
        f"{'data':10} {', '.join(data.names())} (files: {os.environ.get('PPVAE_DATA') or 'downloaded when asked for'})"
    )
    figures.write()
