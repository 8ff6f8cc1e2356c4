"""Fit a pair to a data set, save it, and say what it is worth on the test rows."""

from __future__ import annotations

import inspect
import os
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import ppvae
from ppvae.catalogue import maker
from ppvae.cli.evaluate import Particles, Rows, score
from ppvae.cli.processes import in_processes
from ppvae.cli.shared import Device, Figures, Force, Json, Seed, Source, console, errors, refuse_existing, source
from ppvae.errors import Problem


def fit(
    pair: Annotated[str, typer.Argument(help="One of `ppvae list`.")],
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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the pair is saved; default PAIR-DATA.pt.")
    ] = None,
    particles: Particles = 5000,
    rows: Rows = 1000,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Fit a pair, save it, and score it on the test rows. Stopped by Ctrl-C, the same command goes on where it was."""
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in locals().items()}
    figures = Figures("fit", arguments, json)
    maker(pair)  # an unknown name is refused before anything is read
    output = output or Path(f"{pair}-{Path(data).stem}.pt")
    refuse_existing(output, force)
    if processes > 1 and "RANK" not in os.environ:
        raise typer.Exit(in_processes(processes, device))
    rows_of = source(data)
    checkpoint = output.with_name(output.name + ".ckpt")
    if force:
        checkpoint.unlink(missing_ok=True)
    torch.manual_seed(seed)
    made = ppvae.make(pair, rows_of.features, latents, **_options(pair, rows_of, hidden, likelihood, mechanism))
    began = time.perf_counter()
    if checkpoint.exists():
        errors.print(f"going on from {checkpoint}")
    try:
        result = ppvae.fit(
            made,
            rows_of.taken(rows_of.train, made),
            objective=_objective(objective, draws),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            held_out=held_out,
            patience=patience,
            seed=seed,
            device=device,
            compile=compile,
            precision=precision,
            checkpoint=checkpoint,
            redraw=rows_of.redraw,
            progress=True,
        )
    except KeyboardInterrupt:
        errors.print(
            f"\nstopped; the same command goes on from {checkpoint}"
            if checkpoint.exists()
            else "\nstopped in the first epoch"
        )
        raise typer.Exit(130) from None
    seconds = time.perf_counter() - began
    if os.environ.get("RANK", "0") != "0":
        return
    torch.set_num_threads(torch.get_num_threads() * processes)  # the others have ended
    ppvae.save(made, output, data=data)
    checkpoint.unlink(missing_ok=True)
    bound = result.history[-1]["bound"]
    console.print(
        f"{pair} on {data}: {len(result.history)} epochs in {seconds:.1f} s ({result.step}); "
        f"training bound {bound:.3f} nats per row; saved to {output}"
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
