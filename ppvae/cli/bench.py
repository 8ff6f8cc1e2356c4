"""Time this library beside others, all ratios in one run."""

from __future__ import annotations

import json as jsonlib
import time
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.table import Table
from threadpoolctl import threadpool_limits

from ppvae.bench import CASES, Bench, Record, module
from ppvae.bench.machine import load, machine
from ppvae.cli.shared import Device, Json, console, refuse_loss
from ppvae.files import write_whole
from ppvae.machine import device_of, own_generators


def bench(
    cases: Annotated[list[str] | None, typer.Argument(help=f"Of: {', '.join(CASES)}.", show_default="all")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=2, help="Rounds of each comparison.", show_default="each case's own")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of every library.", show_default="torch's own")
    ] = None,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Time training steps, evidence and imputation beside hand-written PyTorch, Pyro, NumPyro and pythae.

    Variants are interleaved in random order; a ratio is the median over rounds of the paired ratio to the reference,
    in brackets its quartiles. Ctrl-C leaves what was found so far in the JSON.
    """
    modules = {name: module(name) for name in dict.fromkeys(cases or CASES)}
    where = device_of(device)
    if json is not None:
        refuse_loss(json)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    report = Report({name: found.SECONDS for name, found in modules.items()}, json)
    try:
        with threadpool_limits(torch.get_num_threads()):  # NumPy's BLAS
            for name, found in modules.items():
                run = Bench(rounds, where, say=partial(report.say, name))
                run.left_out = report.left_out  # a library that is not there is said once, not once a case
                with own_generators(run.seed):
                    for records in found.case(run):
                        report.add(name, records)
                report.done(name)
    except KeyboardInterrupt:
        report.show()
        console.print("stopped" + (f"; what was found so far is in {json}" if json else ""))
        raise
    finally:
        torch.set_num_threads(threads_before)


class Report:
    """What was found so far, on the screen and in the file, and when the rest will be.

    Args:
        expected: seconds that each case may take, in their order.
        path: the file, written anew after each setting; None: no file.
    """

    def __init__(self, expected: dict[str, float], path: Path | None) -> None:
        self.expected, self.path = expected, path
        self.began = time.perf_counter()
        self.pace = 1.0  # seconds taken for each that was expected
        self.until = 0.0  # when the last case was done, in seconds from the start
        self.behind = 0.0  # the expected seconds of the cases that are done
        self.waiting: list[Record] = []  # of the setting that may go on
        self.left_out: dict[str, str] = {}
        self.record: dict[str, Any] = {
            "command": "bench",
            "machine": machine(),
            "seed": Bench().seed,
            "finished": False,
            "case_seconds": {},
            "results": [],
            "left_out": self.left_out,
        }
        said = self.record["machine"]
        console.print(
            f"{said['processor']}, {said['cores']} cores, {said['threads']} threads, GPU {said['gpu'] or 'none'}; load {said['load']}; "
            + ", ".join(f"{name} {version}" for name, version in said["versions"].items() if version)
        )
        if said["load"] and said["load"][0] > said["cores"] / 2:
            console.print(
                "[yellow]Note:[/] other work runs here. Threads that wait for one another are held up by it far more than one "
                "thread alone: --threads 1, or a quiet machine"
            )

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def say(self, case: str, text: str) -> None:
        """One line: what is done now, and the hour at which all will be."""
        left = self.pace * sum(self.expected.values()) - (self.seconds - self.until)
        end = datetime.now() + timedelta(seconds=max(left, 0.0))
        console.print(f"[dim]{datetime.now():%H:%M:%S}, end about {end:%H:%M}[/]  {escape(f'{case}: {text}')}")

    def add(self, case: str, records: list[Record]) -> None:
        """Keep the records of one setting, or more of the one before; a setting is shown when it is over."""
        if self.waiting and self.waiting[0].setting != records[0].setting:
            self.show()
        self.waiting += records
        self.record["results"] += [
            {"case": case, "setting": r.setting, "variant": r.variant, **r.figures} for r in records
        ]
        self.write()

    def show(self) -> None:
        if self.waiting:
            console.print(table(self.waiting))
        self.waiting = []

    def done(self, case: str) -> None:
        """A case has ended: the pace of the rest is known better."""
        self.show()
        self.behind += self.expected.pop(case)
        self.record["case_seconds"][case] = round(self.seconds - self.until, 1)
        self.until = self.seconds
        self.pace = self.until / self.behind
        self.record["finished"] = not self.expected
        self.write()

    def write(self) -> None:
        if self.path is not None:
            self.record |= {"seconds": round(self.seconds, 1), "load_at_end": load()}
            text = jsonlib.dumps(self.record, indent=1) + "\n"
            write_whole(self.path, lambda draft: Path(draft).write_text(text))


def table(records: list[Record]) -> Table:
    """One setting: a line a variant, a column a figure with its quartiles in brackets."""
    columns = dict.fromkeys(
        name for record in records for name in record.figures if not name.endswith(("_low", "_high"))
    )
    shown = Table(records[0].setting, *columns)
    for record in records:
        shown.add_row(record.variant, *(_cell(name, record.figures) for name in columns))
    return shown


def _cell(name: str, figures: dict[str, float | None]) -> str:
    value, low, high = (figures.get(name + end) for end in ("", "_low", "_high"))
    if value is None:
        return ""
    if low is None or high is None:
        return _number(value)
    return f"{_number(value)} [dim]({_number(low)} to {_number(high)})[/]"


def _number(value: float) -> str:
    """Three significant digits, thousands in full."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
