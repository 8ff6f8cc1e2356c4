"""The command line: ``ppvae demo | list | info | fit | evaluate | explore | impute | reproduce | bench``."""

from __future__ import annotations

import signal
import sys
import warnings

import typer

from ppvae.cli.bench import bench
from ppvae.cli.demo import demo
from ppvae.cli.evaluate import evaluate
from ppvae.cli.explore import explore
from ppvae.cli.fit import fit
from ppvae.cli.impute import impute
from ppvae.cli.info import info, list_pairs
from ppvae.cli.reproduce import reproduce
from ppvae.cli.shared import Terminated, errors
from ppvae.errors import Caution, Problem

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Deep latent variable models as Pyro programs: fit, condition and check them.",
)
app.command()(demo)
app.command("list")(list_pairs)
app.command()(info)
app.command()(fit)
app.command()(evaluate)
app.command()(explore)
app.command()(impute)
app.command()(reproduce)
app.command()(bench)


def main() -> None:
    """Run a command. A wrong input ends with a message and exit code 2, Ctrl-C with 130."""
    warnings.showwarning = _say
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except Problem as problem:
        errors.print(f"[bold red]Cannot go on:[/] {_escape(problem.seen)}")
        errors.print(f"  [bold]Likely cause:[/] {_escape(problem.cause)}\n  [bold]Try:[/] {_escape(problem.remedy)}")
        sys.exit(2)
    except Terminated:
        sys.exit(143)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), Terminated):  # typer takes it for Ctrl-C
            sys.exit(143)
        raise
    except BrokenPipeError:  # ppvae list | head
        sys.exit(141)


def _terminate(*_: object) -> None:
    raise Terminated


def _say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A caution in plain words; other libraries' warnings are not the user's."""
    if issubclass(category, Caution):
        errors.print(f"[yellow]Note:[/] {_escape(str(message))}")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
