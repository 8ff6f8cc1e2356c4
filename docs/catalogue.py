"""Write the catalogue: a page a pair, with its story's equation, its graph, its code, its sizes, and what it reaches.

Each page runs its program (`recipes`) and holds what it printed. Where nothing that enters a page has changed since, it stands.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from figures import published
from recipes import program
from scored import table
from stamp import stamp

import ppvae
from ppvae import plots
from ppvae.catalogue import maker

HERE = Path(__file__).parent
PAGES = HERE / "catalogue"


def main() -> None:
    """Write every page, and the page that lists them."""
    plt.switch_backend("Agg")
    plt.style.use("tableau-colorblind10")
    PAGES.mkdir(exist_ok=True)
    made = f"<!-- made from {stamp()} -->"
    for name in ppvae.names():
        path = PAGES / f"{name}.md"
        if path.exists() and made in path.read_text(encoding="utf-8"):
            continue
        began = time.perf_counter()
        path.write_text(f"{_page(name)}\n{made}\n", encoding="utf-8")
        print(f"catalogue: {name} ({time.perf_counter() - began:.0f} s)", flush=True)
    (PAGES / "index.md").write_text(_index(), encoding="utf-8")


def _page(name: str) -> str:
    guide = maker(name)
    scope: dict[str, Any] = {"ppvae": ppvae, "torch": torch}
    torch.manual_seed(0)
    began = time.perf_counter()
    exec(program(name), scope)  # what the page shows is what was run
    seconds = time.perf_counter() - began
    pair, train, test = scope["pair"], scope["train"], scope["test"]
    story = sys.modules[pair._functions["model"].__module__]
    return "\n".join(
        [
            f"# `{name}`\n\n{_first(guide)}\n",
            "## The story\n",
            _words(story, skip=False),
            "## The guide\n",
            _words(guide, skip=True),
            "## The graph\n",
            _graph(name, pair, train),
            "## A fit\n",
            f"This program, run when this page was made ({seconds:.0f} s on {torch.get_num_threads()} threads):\n",
            f"```python\nimport torch, ppvae\n\n{program(name)}\n```\n",
            table(name, pair, train, test),
            "## Sizes\n",
            f"With these arguments; `N` rows at a time.\n\n{_sizes(pair, train)}\n",
            published(name),
            "## Options\n",
            f'`ppvae.make("{name}", features, latents, …)`. {inspect.getdoc(guide.make)}\n\n{_options(guide)}\n',
            "## Code\n",
            _code(f"The story, `{story.__name__.removeprefix('ppvae.').replace('.', '/')}.py`", story),
            _code(f"The guide, `guides/{name}.py`", guide),
        ]
    )


def _index() -> str:
    lines = [
        "# The catalogue",
        "",
        "One guide is one pair of story and guide; `ppvae.make(name, features, latents, …)` builds it, `ppvae list` lists them.",
        "Each page has the story's equation, the graph, a fit that was run when the site was built, and the code.",
        "",
        *_stories(),
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *ppvae.names(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _stories() -> list[str]:
    """The pairs by their stories: each story, and the guides that there are for it."""
    stories: dict[str, list[str]] = {}
    for name in ppvae.names():
        stories.setdefault(maker(name).model.__module__, []).append(name)
    lines = []
    for module, names in stories.items():
        lines += [f"**{_first(sys.modules[module])}**", ""]
        lines += [*(f"- [{name}]({name}.md): {_first(maker(name))}" for name in names), ""]
    return lines


def _first(module: Any) -> str:
    return inspect.cleandoc(module.__doc__).splitlines()[0]


def _words(module: Any, skip: bool) -> str:
    """A module's docstring as Markdown: what is indented is an equation; ``skip`` leaves out the first line."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(module.__doc__))[int(skip) :]
    parts = [
        f"```text\n{inspect.cleandoc(p)}\n```" if p.startswith("    ") else p.replace("``", "`") for p in paragraphs
    ]
    return "\n\n".join(parts) + "\n"


def _graph(name: str, pair: ppvae.Pair, rows: dict[str, Any]) -> str:
    few = {entry: value[:3] for entry, value in rows.items()}
    axes = plots.graph(pair, few)
    axes.figure.savefig(PAGES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(axes.figure)
    return (
        f"```{{image}} {name}.svg\n:alt: the graph of {name}\n:class: graph\n```\n\n"
        "Circles are sites, grey ones are observed, frames are plates. Arrows drawn out are the story's, dashed ones the guide's.\n"
    )


def _sizes(pair: ppvae.Pair, rows: dict[str, Any]) -> str:
    sites = pair.sites({name: value for name, value in rows.items() if pair.entries.get(name)})
    lines = ["| site | law | shape of a row |", "|---|---|---|"]
    for name, site in sites.items():
        law, shape = site["fn"], tuple(site["value"].shape)
        base = getattr(law, "base_dist", law)
        lines.append(
            f"| `{name}` | {type(base).__name__} | {' x '.join(map(str, (s for s in shape if s != 1))) or 1} |"
        )
    counts = [(name, sum(p.numel() for p in part.parameters())) for name, part in pair.named_children()]
    lines += ["", "| module | parameters |", "|---|---|", *(f"| `{name}` | {count:,} |" for name, count in counts)]
    return "\n".join(lines)


def _options(guide: Any) -> str:
    known = inspect.signature(guide.make).parameters
    rows = [f"| `{n}` | `{p.annotation}` | `{p.default!r}` |" for n, p in known.items() if p.default is not p.empty]
    return (
        "\n".join(["| option | type | default |", "|---|---|---|", *rows]).replace(" | None`", " or None`")
        if rows
        else ""
    )


def _code(title: str, module: Any) -> str:
    return f"<details><summary>{title.replace('`', '')}</summary>\n\n```python\n{inspect.getsource(module)}```\n\n</details>\n"


if __name__ == "__main__":
    main()
