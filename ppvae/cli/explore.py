"""A fitted pair on a page to touch, on this machine alone, or in a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from ppvae.cli.shared import Device, Force, Terminated, console, errors, opened, refuse_existing
from ppvae.errors import Problem
from ppvae.explore.record import recorded
from ppvae.explore.views import View
from ppvae.files import write_whole
from ppvae.machine import device_of


def explore(
    file: Annotated[Path, typer.Argument(help="The folder that `ppvae fit` left, or a file of ppvae.save.")],
    data: Annotated[
        str | None,
        typer.Option(help="A data set by name, or a CSV, Parquet or .npy file; default: the one it was fitted to."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 8765,
    export: Annotated[
        Path | None,
        typer.Option(help="Write a page that needs no server to this file instead, and end.", dir_okay=False),
    ] = None,
    force: Force = False,
    device: Device = "auto",
) -> None:
    """Touch a fitted pair: drag in its latent plane, erase entries of a row and see what is known of the rest."""
    if export is not None:
        refuse_existing(export, force)
        view = _view(file, data, device)
        page = recorded(view, _tracked)
        write_whole(export, lambda draft: Path(draft).write_text(page, encoding="utf-8"))
        console.print(f"the page in {export}, {export.stat().st_size / 1e6:.1f} MB", soft_wrap=True)
        return
    try:
        from ppvae.explore.server import bound, serve
    except ImportError as error:
        raise Problem(
            f"{error.name} is not installed", "the page's server is no part of ppvae", "pip install starlette uvicorn"
        ) from error
    view = _view(file, data, device)
    with bound(port) as at:
        console.print(f"http://{at.getsockname()[0]}:{at.getsockname()[1]} until Ctrl-C", soft_wrap=True)
        try:
            serve(view, at)
        except Terminated:
            raise
        except KeyboardInterrupt:  # how a server is ended
            console.print("stopped")


def _view(file: Path, data: str | None, device: str) -> View:
    pair, rows_of = opened(file, data)
    label = rows_of.test.get("label")
    assert pair._built is not None  # it was read from a file
    said = {"name": pair._built[0], "data": Path(rows_of.name).name}
    return View(
        pair.to(device_of(device)), rows_of.entries("test", pair), rows_of.shape, label, rows_of.columns, **said
    )


def _tracked(rows: range) -> Iterable[int]:
    return track(rows, "recording", console=errors, transient=True, disable=not errors.is_terminal)
