"""The README's figures: each printed by the command before it, with machine, date and seed above the table."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

COMMANDS = {  # beside published numbers, or an exact answer
    "adgm": ("reproduce half-moons",),
    "factor_analysis_": ("reproduce thesis-4.2", "reproduce calibration"),
    "factor_analysis_exact": ("reproduce thesis-4.2", "reproduce evidence", "bench exact"),
    "factor_analysis_not_at_random": ("reproduce not-miwae",),
    "gae": ("reproduce vgae",),
    "multi_entity_vae": ("reproduce objects",),
    "multimodal_vae": ("reproduce imagination",),
    "semi_supervised_vae": ("reproduce semi-supervised", "reproduce half-moons"),
    "shape_fa": ("reproduce shapes",),
    "shape_vae": ("reproduce shapes",),
    "single_entity_vae": ("reproduce objects",),
    "two_layer": ("reproduce collapse",),
    "vae": ("make demo", "fit vae --data mnist", "reproduce evidence", "bench training"),
    "vae_not_at_random": ("reproduce not-miwae",),
    "vgae": ("reproduce vgae",),
}


def rows() -> list[tuple[str, str]]:
    """Each row of the table of figures: the command that printed it, and the row's two cells. One without a command of
    its own belongs to the command above it."""
    table = re.search(r"\| command \| what \| figure \|\n\|[-|]+\|\n((?:\|.*\n)+)", README)
    assert table is not None, "README has no table of figures"
    found, command = [], ""
    for line in table[1].splitlines():
        first, rest = line.strip("|").split("|", 1)
        command = first.strip() or command
        found.append((command, rest.strip()))
    return found


def conditions() -> str:
    """The sentence above the table: machine, date, versions, seed."""
    return README.split("## Figures\n", 1)[1].strip().split("\n\n", 1)[0].replace("\n", " ")


def published(name: str) -> str:
    """A section with the README's rows of a pair, or nothing."""
    family = "factor_analysis_" if name.startswith("factor_analysis_") else ""
    wanted = COMMANDS.get(name) or COMMANDS.get(family) or ()
    lines = [
        f"| {command} | {rest} |"
        for command, rest in rows()
        if any(re.fullmatch(f"`(ppvae )?{re.escape(w)}( .*)?`", command) for w in wanted)
    ]
    if not lines:
        return ""
    head = "## Reference results and ours\n\n" + conditions().split("; what `ppvae bench`")[0] + ".\n"
    return "\n".join([head, "| command | what | figure |", "|---|---|---|", *lines, ""])
