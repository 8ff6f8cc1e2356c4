"""What a type checker says of a user's lines: each verb gives what its document says, and a wrong call is a complaint."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROLOGUE = """\
import torch

import ppvae

x = torch.zeros(8, 4)
mask = torch.ones(8, 4, dtype=torch.bool)
pair = ppvae.make("vae", 4, 2)
run = ppvae.fit(pair, x, mask, ppvae.iw_elbo(5), epochs=2, redraw=torch.bernoulli)
post = ppvae.condition(pair, x, mask)
digits = ppvae.data.load("digits")
story = ppvae.exact.ppca(x, 2)
"""
REVEALED = {
    "pair": "ppvae.pair.Pair",
    "ppvae.load('pair.pt')": "ppvae.pair.Pair",
    "ppvae.names()": "tuple[str, ...]",
    "run": "ppvae.fitting.loop.Fit",
    "run.pair": "ppvae.pair.Pair",
    "run.history": "list[dict[str, Any]]",
    "post": "ppvae.conditioning.posterior.Posterior",
    "post.sample(5)": "dict[str, Tensor]",
    "post.log_evidence()": "Tensor",
    "post.impute()": "Tensor",
    "post.impute_mean()": "Tensor",
    "post.diagnostics()": "dict[str, Tensor]",
    "ppvae.check(pair, x, mask)": "None",
    "ppvae.elbo()(pair, x, mask)": "Tensor",
    "ppvae.iw_elbo(5)(pair, x)": "Tensor",
    "ppvae.refine(pair, x)": "ppvae.conditioning.refine.Refined",
    "ppvae.gaps(pair, x)": "ppvae.conditioning.refine.Gaps",
    "ppvae.Pair(lambda: None, None)": "ppvae.pair.Pair",
    "ppvae.evaluate.units(pair, x)": "dict[str, ppvae.evaluate.latents.Units]",
    "ppvae.evaluate.evidence(pair, x)": "ppvae.evaluate.weights.Evidence",
    "digits": "ppvae.data.dataset.Dataset",
    "digits.rows('train')": "Tensor",
    "story": "ppvae.exact.ppca.FactorAnalysis",
    "ppvae.exact.log_evidence(*story[:3], x)": "Tensor",
}
WRONG = {
    'ppvae.fit(pair, x, epochs="many")': "arg-type",
    "ppvae.fit(x, pair)": "arg-type",
    "ppvae.fit(pair, x, lr=1e-3)": "call-arg",
    "ppvae.fit(pair, x, objective='elbo')": "arg-type",
    "ppvae.condition(x)": "arg-type",
    'ppvae.make("vae", 4)': "call-arg",
    "ppvae.elbo(5, kl=4.0)": "arg-type",
    'post.sample("many")': "arg-type",
    "post.samples": "attr-defined",
    "run.pairs": "attr-defined",
    "ppvae.iwae(5)": "attr-defined",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Each line of the user's to what mypy says of it; a named tuple by its name, a tensor without its module."""
    pytest.importorskip("mypy", reason="mypy is not installed (pip install 'ppvae[test]')")
    lines = PROLOGUE.splitlines() + [f"reveal_type({line})" for line in REVEALED] + list(WRONG)
    script = tmp_path_factory.mktemp("types") / "script.py"
    script.write_text("\n".join(lines) + "\n")
    run = subprocess.run([sys.executable, "-m", "mypy", script], cwd=ROOT, capture_output=True, text=True, check=False)
    found = {line: [] for line in lines}
    named = re.sub(r"tuple\[[^][]*, fallback=([\w.]+)\]", r"\1", run.stdout.replace("torch._tensor.", ""))
    for number, words in re.findall(r"script\.py:(\d+): (.*)", named):
        found[lines[int(number) - 1]].append(words)
    assert re.search(r"Found \d+ errors? in 1 file ", run.stdout), run.stdout + run.stderr
    return found


@pytest.mark.parametrize("line", PROLOGUE.splitlines())
def test_right_lines_are_no_complaint(said, line):
    assert said[line] == []


@pytest.mark.parametrize("line", REVEALED)
def test_a_verb_gives_what_its_document_says(said, line):
    revealed = [words.removeprefix("note: ") for words in said[f"reveal_type({line})"]]
    assert revealed == [f'Revealed type is "{REVEALED[line]}"']


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_call_is_a_complaint(said, line):
    assert any(words.endswith(f"[{WRONG[line]}]") for words in said[line])
