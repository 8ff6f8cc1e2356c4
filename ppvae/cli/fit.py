"""Fit a pair to a data set, save it, and say what it is worth on the test rows."""

from __future__ import annotations

import inspect
import json as jsonlib
import os
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import ppvae
from ppvae.catalogue import maker
from ppvae.cli.evaluate import Particles, Rows
from ppvae.cli.processes import in_processes
from ppvae.cli.scoring import score
from ppvae.cli.shared import (
    Device,
    Figures,
    Force,
    Json,
    Seed,
    Source,
    Terminated,
    console,
    errors,
    kept_command,
    source,
)
from ppvae.errors import Problem
from ppvae.files import write_whole
from ppvae.fitting.folder import COMMAND, LAST, PREVIOUS, WRITTEN, make_folder, refuse_other
from ppvae.pair import SEEN

PAIR = "pair.pt"  # what the run leaves
BOARD = "tensorboard"
OWN = (*WRITTEN, COMMAND, PAIR, BOARD)
ASIDE = ".replaced"  # a folder in the run's, of an earlier one
OPTIONS = ("epochs", "batch_size", "learning_rate", "held_out", "patience", "compile", "precision")  # of `ppvae.fit`


def fit(
    context: typer.Context,
    pair: Annotated[str | None, typer.Argument(help="One of `ppvae list`.")] = None,
    data: Annotated[
        str,
        typer.Option(
            help="A data set by name (ppvae info), or a CSV, Parquet or .npy file of numbers (of a .npy its last fifth is test)."
        ),
    ] = "digits",
    latents: Annotated[int, typer.Option(min=1, help="Size of the latent.")] = 20,
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the layers, such as 400,200; default: the pair's own.")
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="bernoulli or normal; default: the one that suits the data.")
    ] = None,
    mechanism: Annotated[
        str | None,
        typer.Option(
            help="Why entries are missing: agnostic, self_masking or sign_known (large values are); of the pairs that say so."
        ),
    ] = None,
    objective: Annotated[str, typer.Option(help="elbo or iw_elbo.")] = "elbo",
    draws: Annotated[
        int | None, typer.Option(min=1, help="Particles of the objective; default 1 for elbo, 5 for iw_elbo.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training rows.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step, of all processes together.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at the start; it falls to 0 along a cosine.")] = 1e-3,
    held_out: Annotated[float, typer.Option(help="Share of the training rows set aside to watch.")] = 0.0,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better held-out bound.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Fit in so many processes, each with its share of the threads, or a GPU.")
    ] = 1,
    compile: Annotated[
        str, typer.Option(help="auto (stage the step), inductor (fuse it too; needs a C++ compiler), or off.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="Of products: float32, tf32 or bf16.")] = "float32",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write events for TensorBoard, into the run's folder.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The run's folder: checkpoints, metrics, the pair at the end; default PAIR-DATA."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, as it was begun; no other option.")
    ] = None,
    particles: Particles = 5000,
    rows: Rows = 1000,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Fit a pair, save it, and score it on the test rows. Stopped or killed, `ppvae fit --resume FOLDER` goes on where it was."""
    given = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items() if k not in ("context", "resume")}
    if resume is not None:
        given = _command_of(resume, context)
    elif pair is None:
        raise Problem("no pair is named", "the first word says which is fitted", "ppvae fit vae; all: ppvae list")
    _fit(**given)


def _fit(
    pair: str, data: str, output: str | None, particles: int, rows: int, force: bool, json: str | None, **given: Any
) -> None:
    """What the command does, begun or gone on with."""
    device, processes, seed = given["device"], given["processes"], given["seed"]
    maker(pair)  # an unknown name is refused before anything is read
    folder = Path(output or f"{pair}-{Path(data).stem}")
    arguments = {"pair": pair, "data": data, "output": str(folder), "particles": particles, "rows": rows, **given}
    arguments["json"] = json
    figures = Figures("fit", arguments, Path(json) if json else None)
    if "RANK" not in os.environ:
        _refuse_taken(folder, arguments, force)
        if processes > 1:
            raise typer.Exit(in_processes(processes, device))
    rows_of = source(data)
    torch.manual_seed(seed)
    made = ppvae.make(
        pair,
        rows_of.features,
        given["latents"],
        **_options(pair, rows_of, given["hidden"], given["likelihood"], given["mechanism"]),
    )
    absent = sorted(set(made.entries) - set(rows_of.train) - {"x", SEEN})
    if absent and os.environ.get("RANK", "0") == "0":
        errors.print(
            f"[yellow]Note:[/] {data} has no {', '.join(absent)}: fitted without; with it from Python: ppvae.fit"
        )
    began = time.perf_counter()
    if os.environ.get("RANK", "0") == "0":
        _claim(folder, arguments, force)
    if (folder / LAST).exists():
        errors.print(f"going on in {folder}")
    try:
        result = ppvae.fit(
            made,
            rows_of.taken(rows_of.train, made),
            objective=_objective(given["objective"], given["draws"]),
            checkpoint=folder,
            tensorboard=folder / BOARD if given["tensorboard"] else None,
            redraw=rows_of.redraw,
            progress=True,
            device=device,
            seed=seed,
            **{name: given[name] for name in OPTIONS},
        )
    except KeyboardInterrupt as stop:
        words = f"; ppvae fit --resume {folder} goes on" if (folder / LAST).exists() else " in the first epoch"
        errors.print(f"\nstopped{words}")
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None
    finally:
        if os.environ.get("RANK", "0") == "0":
            _settle(folder)
    seconds = time.perf_counter() - began
    if os.environ.get("RANK", "0") != "0":
        return
    torch.set_num_threads(torch.get_num_threads() * processes)  # the others have ended
    ppvae.save(made, folder / PAIR, data=data)
    bound = result.history[-1]["bound"]
    console.print(
        f"{pair} on {data}: {len(result.history)} epochs in {seconds:.1f} s ({result.step}); "
        f"training bound {bound:.3f} nats per row; saved to {folder}"
    )
    figures.results = {
        "training": {
            "seconds": round(seconds, 1),
            "epochs": len(result.history),
            "bound": bound,
            "step": result.step,
            "stopped": result.stopped,
            "history": result.history,
        },
        "test": score(made, rows_of, particles, rows, seed),
    }
    figures.write()


def _refuse_taken(folder: Path, arguments: dict[str, Any], force: bool) -> None:
    """An earlier run is gone on with by the same command only."""
    refuse_other(folder)
    command = folder / COMMAND
    if force or not any((folder / name).exists() for name in (LAST, PREVIOUS, PAIR)) or not command.exists():
        return
    if (folder / PAIR).exists():
        raise Problem(f"the run in {folder} is finished", "it would be overwritten", "--output FOLDER, or --force")
    was = kept_command(command)
    places = ("output", "json")  # a folder may be moved, or named from elsewhere
    differs = [name for name, value in arguments.items() if was.get(name) != value and name not in places]
    if differs:
        raise Problem(
            f"{folder} holds a run of another command: {', '.join(f'{n} was {was.get(n)!r}' for n in differs)}",
            "a run that was stopped before its end",
            f"ppvae fit --resume {folder}; to start anew --output FOLDER, or --force",
        )


def _claim(folder: Path, arguments: dict[str, Any], force: bool) -> None:
    """Make the run's folder, and keep the command there. With ``force`` an earlier run is set aside until this one has begun."""
    make_folder(folder)
    if force:
        _move(folder, folder / ASIDE)
    write_whole(folder / COMMAND, lambda draft: Path(draft).write_text(jsonlib.dumps(arguments, indent=2) + "\n"))


def _settle(folder: Path) -> None:
    """Once there is a checkpoint the run has begun, and what it replaced goes; before that nothing has changed."""
    aside = folder / ASIDE
    if any((folder / name).exists() for name in (LAST, PREVIOUS)):
        shutil.rmtree(aside, ignore_errors=True)
        return
    for name in OWN:
        _remove(folder / name)
    if aside.exists():
        _move(aside, folder)
        aside.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()


def _move(source: Path, target: Path) -> None:
    """What a run has written, and nothing else that lies there."""
    target.mkdir(exist_ok=True)
    for name in OWN:
        if (source / name).exists():
            _remove(target / name)
            os.replace(source / name, target / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _named(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _command_of(folder: Path, context: typer.Context) -> dict[str, Any]:
    """The arguments that a run was begun with."""
    others = [name for name in context.params if name != "resume" and _named(context, name)]
    if others:
        raise Problem(
            f"--resume stands beside {', '.join(others)}",
            "a run goes on as it was begun",
            f"ppvae fit --resume {folder}",
        )
    if not (folder / COMMAND).is_file():
        raise Problem(f"{folder} holds no run of `ppvae fit`", "a misspelt path", "the folder after --output")
    if (folder / PAIR).exists():
        raise Problem(f"the run in {folder} is finished", "nothing is left to do", f"ppvae evaluate {folder}")
    known = {name for name in context.params if name != "resume"}
    was = kept_command(folder / COMMAND)
    if set(was) | {"force"} != known:
        raise Problem(
            f"{folder / COMMAND} does not hold the options of this command",
            "another version of ppvae wrote it, or somebody did",
            "the version that wrote it, or the whole command again",
        )
    return {**was, "output": str(folder), "force": False}


def _options(
    name: str, rows_of: Source, hidden: str | None, likelihood: str | None, mechanism: str | None
) -> dict[str, Any]:
    """The options of the pair's own make that the command line and the data set."""
    known = inspect.signature(maker(name).make).parameters
    options: dict[str, Any] = {}
    if hidden is not None:
        try:
            options["hidden"] = tuple(int(width) for width in hidden.split(","))
        except ValueError:
            raise Problem(
                f"--hidden is {hidden!r}", "widths are whole numbers with commas between", "--hidden 400,200"
            ) from None
    if likelihood is not None or "likelihood" in known:
        options["likelihood"] = likelihood or rows_of.likelihood
    if mechanism is not None:
        options["mechanism"] = mechanism
    if "height" in known and rows_of.shape is not None:
        options |= {"channels": rows_of.shape[0], "height": rows_of.shape[1]}
    return options


def _objective(name: str, draws: int | None) -> Any:
    verbs = {"elbo": ppvae.elbo, "iw_elbo": ppvae.iw_elbo}
    if name not in verbs:
        raise Problem(f"there is no objective {name!r}", "a misspelt name", f"one of: {', '.join(verbs)}")
    return verbs[name]() if draws is None else verbs[name](draws)
