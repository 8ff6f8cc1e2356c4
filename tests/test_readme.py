"""What the README says can be typed, runs."""

import re
from pathlib import Path

import numpy as np
import torch

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_programs_of_the_readme_run(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    np.save("big.npy", np.random.default_rng(0).random((600, 64), np.float32))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 8
    scope: dict = {}
    for block in blocks:  # each but the last goes on where the first ended
        scope = {} if "import ppvae" in block else scope
        exec(block.replace("epochs=100", "epochs=2"), scope)
    assert scope["pair"].entries == {"x": False}


def test_the_commands_of_the_readme_exist():
    from typer.main import get_command

    from ppvae.cli import app

    known = get_command(app).commands
    named = set(re.findall(r"^ppvae (\w+)", README, re.MULTILINE))
    assert named and named <= set(known)
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert targets and all(f"\n{target}:" in makefile for target in targets)
