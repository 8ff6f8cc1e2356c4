"""The page about a fitted pair: it stands alone, its figures are those of --json and of the run folder, and it says what they mean."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import ppvae
from ppvae.report.fitted import _thinned
from ppvae.report.page import render

FIT = ("fit", "vae", "--data", "digits_binary", "--latents", 3, "--hidden", 16, "--epochs", 3, "--held-out", 0.1)
SCORE = ("--rows", 60, "--particles", 30)


@pytest.fixture
def page(ppvae_):
    """A page with everything on it, and its figures."""
    assert ppvae_(*FIT, *SCORE, "-o", "run")[0] == 0
    words = ("--hide", 0.3, "--calibrate", "--report", "r.html", "--json", "e.json")
    code, out, err = ppvae_("evaluate", "run", *SCORE, *words)
    assert code == 0 and "the report in r.html" in out, err
    return Path("r.html").read_text(), json.load(open("e.json"))["results"]


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).replace("\u00a0", " ")


def test_the_page_stands_alone_and_says_the_figures(page):
    html, results = page
    assert "<script" not in html and not re.search(r"(src|href)=\"(?!data:)", html) and "http" not in html
    assert html.count("<img") == html.count("data:image/png;base64,") == 7
    text = text_of(html)
    for name in ("elbo", "log_evidence"):
        assert f"{results[name]:.4g} ± {results[name + '_se']:.4g}" in text
    found = results["imputation"]
    assert (
        f"RMSE {found['rmse']:.4g}, CRPS {found['crps']:.4g}; 90 % intervals hold {100 * found['coverage']:.1f} %"
        in text
    )
    assert f"z {results['calibration']['sbc_p_value']['z']:.4g}" in text
    history = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    for record in history:
        values = (record["bound"], record["held_out"], record["likelihood"], record["kl"]["z"], record["learning_rate"])
        assert " ".join(f"{value:.4g}" for value in values) in text
    assert "1 of 3" in text or "2 of 3" in text or "3 of 3" in text or "0 of 3" in text
    assert ppvae.__version__ in text and torch.__version__ in text and "gone on with" not in text


def test_a_saved_file_has_no_training_and_a_table_no_images(ppvae_):
    made = ppvae.make("factor_analysis_exact", features=30, latents=2)
    ppvae.save(made, "fa.pt", data="breast")
    code, _, err = ppvae_("evaluate", "fa.pt", *SCORE, "--report", "r.html")
    assert code == 0, err
    text = text_of(Path("r.html").read_text())
    assert "Training" not in text and "Images" not in text and "Imputation" not in text
    assert "What the latent is used for" in text and "Story and guide" in text


def test_pairs_whose_pictures_are_not_to_be_drawn_are_reported_without_them(ppvae_):
    for name, options in (("two_layer", {"hidden": (8,)}), ("semi_supervised_vae", {"hidden": (8,)})):
        ppvae.save(ppvae.make(name, features=64, latents=2, **options), f"{name}.pt", data="digits_binary")
        code, _, err = ppvae_("evaluate", f"{name}.pt", *SCORE, "--report", f"{name}.html")
        assert code == 0, err
        html = Path(f"{name}.html").read_text()
        assert "What the latent is used for" not in html and "Story and guide" in html


def test_a_page_is_not_replaced_unasked(ppvae_):
    assert ppvae_(*FIT, *SCORE, "-o", "run")[0] == 0
    Path("r.html").write_text("mine")
    code, _, err = ppvae_("evaluate", "run", *SCORE, "--report", "r.html")
    assert code == 2 and "r.html exists" in err and Path("r.html").read_text() == "mine"
    assert ppvae_("evaluate", "run", *SCORE, "--report", "r.html", "--force")[0] == 0


def minimal(**changes):
    test = {"rows": 10, "test_rows": 20, "scaling": "s", "elbo": -5.0, "elbo_se": 0.1, "seed": 0, "log_evidence": -4.0}
    test |= {"log_evidence_se": 0.1, "particles": 50, "pareto_k_above_threshold": 0.0, "pareto_threshold": 0.67}
    test |= {"ess_median": 300.0, **changes.pop("test", {})}
    blank = dict.fromkeys(
        ("units", "bounds", "calibration", "codes", "reconstructions", "imputation", "graph", "gap", "held_out"), None
    )
    values = {**blank, "name": "vae", "data": "d", "features": 4, "parameters": 10, "history": [], "made": {}}
    return text_of(render("fitted.html", **{**values, "written": "now", "test": test, "last": {}, **changes}))


def test_it_says_what_the_figures_mean():
    assert "is not to be trusted, and is too low" in minimal(test={"pareto_k_above_threshold": 0.2})
    assert "not to be trusted, and" not in minimal()
    last = {"last": {"bound": -3.0}}
    assert "knows its training rows better" in minimal(gap=2.0, **last)
    assert "no overfitting is seen" in minimal(gap=0.3, **last) and " 0.3 nats higher" in text_of(
        minimal(gap=-0.3, **last)
    )
    assert "is more than chance: the parameters moved" in text_of(minimal(gap=-2.0, **last))
    told = {"rows": 9, "sbc_p_value": {"z": 1e-6}, "tarp_p_value": 0.5}
    assert "do not rank as they should" in minimal(calibration=told, calibrated=False)
    assert "rank as they should: p" in minimal(calibration=told, calibrated=True)


def test_some_epochs_stand_in_the_table_the_ends_among_them():
    history = [{"epoch": n + 1} for n in range(100)]
    shown = [record["epoch"] for record in _thinned(history)]
    assert shown[0] == 1 and shown[-1] == 100 and len(shown) == 12 and shown == sorted(shown)
    assert _thinned(history[:5]) == history[:5]


# --- as a browser has it ----------------------------------------------------------------------------------

ASK = "<script>onload = () => document.title = [...document.images].map(i => i.complete && i.naturalWidth > 0)</script>"


def opened(html):
    """What a browser says on its console of a page, and of each of its pictures whether it shows."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    Path("asked.html").write_text(html.replace("</head>", f"{ASK}</head>"))
    words = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")
    page = Path("asked.html").resolve().as_uri()
    found = subprocess.run([browser, *words, page], capture_output=True, text=True, timeout=120)
    said = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    return said, re.search(r"<title>(.*?)</title>", found.stdout).group(1).split(",")


@pytest.mark.slow
def test_a_browser_shows_every_picture_and_has_no_complaint(page, ppvae_):
    said, shown = opened(
        "<head><title></title></head><img src='data:image/png;base64,AA'><script>nothing.here()</script>"
    )
    assert "nothing is not defined" in said[0] and shown == ["false"]  # it would be seen
    html, _ = page
    assert opened(html) == ([], ["true"] * 7)
    x = torch.randn(80, 1) + 0.3 * torch.randn(80, 4)
    rows = [",".join("" if hidden else f"{value:.3f}" for value, hidden in zip(*row, strict=True))
            for row in zip(x.tolist(), (torch.rand(80, 4) < 0.2).tolist(), strict=True)]  # fmt: skip
    Path("t.csv").write_text("\n".join(["a,b,c,d", *(row for row in rows if row != ",,,")]) + "\n")
    assert ppvae_("impute", "t.csv", "-o", "out.csv", "--report", "i.html")[0] == 0
    html = Path("i.html").read_text()
    said, shown = opened(html)
    assert said == [] and set(shown) == {"true"} and len(shown) == html.count("<img") > 0
