"""What the site is generated from: a program for each pair, and the README's figures, found where the pages look for them."""

import re
import sys
from pathlib import Path

import pytest

import ppvae

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(autouse=True)
def _beside(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    for name in ("figures", "recipes", "stamp"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ppvae.names())
def test_every_pair_has_a_program(name):
    from recipes import program

    text = program(name)
    compile(text, name, "exec")
    assert f'ppvae.make("{name}", ' in text and ("ppvae.fit(pair, train" in text or name == "shape_fa")


def test_the_figures_of_the_readme_are_found():
    import figures

    rows = figures.rows()
    assert len(rows) > 20 and all(command.startswith("`") and rest.count("|") == 1 for command, rest in rows)
    assert "seed 0" in figures.conditions()
    for name in [n for n in ppvae.names() if n in figures.COMMANDS]:
        for command in figures.COMMANDS[name]:
            assert command in figures.published(name), (name, command)
    assert figures.published("mixed_vae") == ""  # no table of its own


def test_another_word_where_anything_changed(tmp_path, monkeypatch):
    import stamp

    first = stamp.stamp()
    assert first == stamp.stamp() and re.fullmatch("[0-9a-f]{16}", first)
    (tmp_path / "ppvae").mkdir()
    (tmp_path / "ppvae" / "new.py").write_text("pass\n")
    (tmp_path / "README.md").write_text((DOCS.parent / "README.md").read_text())
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    one = stamp.stamp()
    (tmp_path / "ppvae" / "new.py").write_text("pass  # changed\n")
    assert len({first, one, stamp.stamp()}) == 3
