"""The notebooks run from first cell to last, their solutions hold, and they are written as the README of their folder says."""

import json
from pathlib import Path

import matplotlib
import pytest
import torch

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch, tmp_path):
    torch.set_default_dtype(torch.float32)  # as a reader begins
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    scope = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path, "code")):
        exec(compile("".join(cell["source"]), f"{path.stem}, code cell {number}", "exec"), scope)
    assert not list(tmp_path.iterdir())
    pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_asks_shows_and_ends_with_three_exercises_that_have_solutions(path):
    said = ["".join(cell["source"]) for cell in cells(path, "markdown")]
    code = cells(path, "code")
    assert said[0].startswith(f"# {int(path.stem[:2])} ") and "**Question.**" in said[0] and "$" in "".join(said)
    assert said[-1].startswith("## Exercises") and all(f"\n{i}. " in said[-1] for i in (1, 2, 3))
    solutions = ["".join(cell["source"]) for cell in code if "solution" in cell["metadata"].get("tags", [])]
    assert len(solutions) == 3 and all("assert" in solution for solution in solutions)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_they_are_numbered_without_gaps():
    assert [int(path.stem[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
