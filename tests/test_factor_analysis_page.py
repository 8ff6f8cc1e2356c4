"""The page docs/touch/factor-analysis.md: its mathematics against ppvae and dense algebra, and the page in a browser."""

import ast
import itertools
import json
import math
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from scipy import integrate

from ppvae import exact

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ("exact", "mean imputation", "scaled covariance", "mean field")
APPROXIMATIONS = dict(
    zip(
        NAMES,
        (
            exact.posterior,
            exact.approximations.full_covariance,
            exact.approximations.scaled_covariance,
            exact.mean_field,
        ),
        strict=True,
    )
)
DRAWS, DRAWN = 40_000, 4 + 0b101  # so many rows of the case of three coordinates with the second hidden
DRIVER = """
const { cases, draws, names } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const math = linearGaussian;
let seed = 20260101; // the generator of Park and Miller: numbers that are the same on every machine
const random = () => (seed = (48271 * seed) % 2147483647) / 2147483647;
const answer = ({ story, x, mask }) => {
  const row = x.map((value, j) => (mask[j] ? value : NaN)); // a hidden entry that is read would spoil everything
  const of = (name) => {
    const q = math.approximations[name](story, row, mask);
    return {
      mean: q.mean, covariance: q.covariance, elbo: math.elbo(story, row, mask, q), root: math.cholesky(q.covariance),
      kl: math.kl(q, math.approximations.exact(story, row, mask)), coverage: math.coverage(story, mask, math.approximations[name]),
      predictive: x.map((_, j) => math.predictive(story, j, q)),
    };
  };
  return { evidence: math.logEvidence(story, row, mask), ...Object.fromEntries(names.map((name) => [name, of(name)])) };
};
const answers = cases.map(answer);
const { story, mask } = cases[draws.of];
const held = Object.fromEntries(names.map((name) => [name, 0]));
const moments = [0, 0, 0];
for (let i = 0; i < draws.rows; i += 1) {
  const { z, x } = math.draw(story, random);
  for (const name of names) held[name] += math.holds(math.approximations[name](story, x, mask), z);
  moments[0] += x[0] / draws.rows;
  moments[1] += x[0] ** 2 / draws.rows;
  moments[2] += (x[0] * z[0]) / draws.rows;
}
console.log(JSON.stringify({ level: math.LEVEL, answers, held, moments }));
"""


@cache
def cases():
    """Random stories of 2, 3 and 4 coordinates, a row each, under all masks."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = []
    for D in (2, 3, 4):
        W, loc, scale, x = normal(D, 2), normal(D), (0.5 * normal(D)).exp(), 2 * normal(1, D)
        for mask in itertools.product((False, True), repeat=D):
            found.append((W, loc, scale, x, torch.tensor([mask])))
    return found


@cache
def answered():
    """What linear-gaussian.js says of all cases, from one process."""
    if not (node := shutil.which("node")):
        pytest.skip("there is no node to run the page's mathematics")
    listed = [
        {
            "story": {"W": W.tolist(), "loc": loc.tolist(), "scale": scale.tolist()},
            "x": x[0].tolist(),
            "mask": mask[0].tolist(),
        }
        for W, loc, scale, x, mask in cases()
    ]
    question = {"cases": listed, "draws": {"of": DRAWN, "rows": DRAWS}, "names": NAMES}
    program = (DOCS / "_static" / "linear-gaussian.js").read_text(encoding="utf-8") + DRIVER
    run = subprocess.run([node, "-e", program], input=json.dumps(question), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def covariance_of(q):
    return q.covariance_matrix[0] if hasattr(q, "covariance_matrix") else q.variance[0].diag()


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_that_of_ppvae(name):
    for row, found in zip(cases(), answered()["answers"], strict=True):
        q, here = APPROXIMATIONS[name](*row), found[name]
        kl, evidence = exact.kl_to_posterior(q, *row).item(), exact.log_evidence(*row).item()
        assert here["mean"] == pytest.approx(q.mean[0].tolist(), abs=1e-10)
        assert torch.tensor(here["covariance"]).flatten().tolist() == pytest.approx(
            covariance_of(q).flatten().tolist(), abs=1e-10
        )
        assert found["evidence"] == pytest.approx(evidence, abs=1e-10)
        assert here["kl"] == pytest.approx(kl, abs=1e-10)
        assert here["elbo"] == pytest.approx(evidence - kl, abs=1e-10)


def test_evidence_and_predictions_are_those_of_the_dense_joint_gaussian():
    for (W, loc, scale, x, mask), found in zip(cases(), answered()["answers"], strict=True):
        full, seen = W @ W.mT + scale.square().diag(), mask[0]
        r = (x[0] - loc)[seen]
        inside = full[seen][:, seen]
        evidence = -0.5 * (r @ torch.linalg.solve(inside, r) + torch.logdet(inside) + len(r) * math.log(2 * math.pi))
        assert found["evidence"] == pytest.approx(evidence.item(), abs=1e-10)
        across = full[:, seen]
        mean = loc + across @ torch.linalg.solve(inside, r)
        spread = (full - across @ torch.linalg.solve(inside, across.mT)).diagonal().sqrt()
        for j in (~seen).nonzero().flatten().tolist():
            here = found["exact"]["predictive"][j]
            assert (here["mean"], here["sd"]) == pytest.approx((mean[j].item(), spread[j].item()), abs=1e-10)


def test_the_ellipse_is_that_of_90_percent():
    level = torch.tensor(answered()["level"])
    assert torch.distributions.Chi2(2.0).cdf(level).item() == pytest.approx(0.9, abs=1e-12)
    for found in answered()["answers"]:
        for name in NAMES:
            root = torch.tensor(found[name]["root"])
            assert torch.allclose(root @ root.mT, torch.tensor(found[name]["covariance"]), atol=1e-12)


def long_run(W, loc, scale, x, mask, name):
    """P(e' covariance^-1 e <= level) of the error e = z - mean, by its dense covariance and quadrature."""
    D, level = len(loc), -2 * math.log(0.1)
    approximation = APPROXIMATIONS[name]
    B = approximation(W, loc, scale, loc + torch.eye(D), mask.expand(D, D)).mean.mT  # (2, D)
    joint = torch.cat([torch.cat([torch.eye(2), W.mT], 1), torch.cat([W, W @ W.mT + scale.square().diag()], 1)])
    reader = torch.cat([torch.eye(2), -B], 1)  # e = reader (z, x - loc)
    error = reader @ joint @ reader.mT
    a, b = torch.linalg.eigvals(
        torch.linalg.solve(covariance_of(approximation(W, loc, scale, x, mask)), error)
    ).real.tolist()

    def inside(u):  # a u^2 + b v^2 <= level
        return (
            math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi) * math.erf(math.sqrt(max(0.0, level - a * u * u) / b / 2))
        )

    edge = math.sqrt(level / a)
    return integrate.quad(inside, -edge, edge, epsabs=1e-11)[0]


@pytest.mark.parametrize("name", NAMES)
def test_long_run_coverage_is_that_of_the_error_of_the_mean(name):
    for row, found in zip(cases(), answered()["answers"], strict=True):
        assert found[name]["coverage"] == pytest.approx(long_run(*row, name), abs=1e-7)
        if name == "exact":
            assert found[name]["coverage"] == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_drawn_rows_are_covered_as_often_as_the_closed_form_says(name):
    expected = 0.9 if name == "exact" else long_run(*cases()[DRAWN], name)
    error = math.sqrt(expected * (1 - expected) / DRAWS)
    assert abs(answered()["held"][name] / DRAWS - expected) < 5 * error


def test_drawn_rows_are_those_of_the_story():
    W, loc, scale, _, _ = cases()[DRAWN]
    variance = (W[0].square().sum() + scale[0].square()).item()
    mean, square, cross = answered()["moments"]
    assert abs(mean - loc[0].item()) < 5 * math.sqrt(variance / DRAWS)
    spread_of_square = math.sqrt((2 * variance**2 + 4 * variance * loc[0].item() ** 2) / DRAWS)
    assert abs(square - variance - loc[0].item() ** 2) < 5 * spread_of_square
    w = W[0, 0].item()
    assert abs(cross - w) < 5 * math.sqrt((variance + loc[0].item() ** 2 + w * w) / DRAWS)


def test_the_picture_and_the_program_start_from_the_same_state():
    page = (DOCS / "touch" / "factor-analysis.md").read_text(encoding="utf-8")
    script = (DOCS / "_static" / "factor-analysis.js").read_text(encoding="utf-8")

    def numbers(name):
        (there,) = re.findall(rf"^{name} = torch\.tensor\((.+?)(?:, dtype=torch\.float64)?\)$", page, re.M)
        (here,) = re.findall(rf"(?:const STORY|const START).*\b{name}: (\[.+?\])(?=, \w+:| \}})", script)
        there = ast.literal_eval(there)
        return (there[0] if name in ("x", "mask") else there), json.loads(here)

    for name in ("W", "loc", "scale", "x", "mask"):
        there, here = numbers(name)
        assert there == here, name


# ---- in a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=(1280, 390))
def page(request, browse, site):
    """The built page, first visit, at two widths."""
    return browse((site / "touch" / "factor-analysis.html").as_uri(), request.param)


def figure(page, name, column):
    text = page.locator(f'#factor-analysis tr[data-name="{name}"] .{column}').inner_text()
    return float(text.replace("−", "-").split("%")[0])


def evidence(page):
    return float(page.locator("#factor-analysis .evidence").inner_text().replace("−", "-"))


def drag(page, target, right, down):
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right, y + down, steps=4)
    page.mouse.up()


@pytest.mark.browser
def test_questions_come_first_and_only_once(page):
    picture = page.locator("#factor-analysis")
    assert picture.locator(".work").evaluate("work => work.inert")
    for i, right in enumerate((3, 2, 2, 2)):
        card = picture.locator(".question").nth(i)
        assert not card.locator(".why").is_visible()
        card.locator(f".answers button:nth-child({right if i else 1})").click()
        assert card.locator(".verdict").inner_text().strip() == ("Right." if i else "Not so.")
        assert card.locator(".why").is_visible()
        assert picture.locator(".guess").is_visible() == (i == 0)
        picture.locator(".next").click()
    assert not picture.locator(".asking").is_visible()
    page.reload()
    assert not picture.locator(".asking").is_visible()
    assert not picture.locator(".work").evaluate("work => work.inert")


@pytest.mark.browser
def test_dragging_hiding_and_drawing(page):
    picture = page.locator("#factor-analysis")
    picture.locator(".skip").click()
    printed = [row.split("\t") for row in page.locator("#agreement tbody tr").all_text_contents()]
    assert len(printed) == 5
    apart = page.locator("#agreement tbody td:last-child").all_text_contents()
    assert max(map(float, apart)) < 1e-9  # the program of the page, run in the build, and the browser agree

    def places():
        return [
            picture.locator(f".plane .q.{name.replace(' ', '-')}").evaluate("q => q.style.transform") for name in NAMES
        ]

    def bound_is_exact():
        assert figure(page, "exact", "elbo") == evidence(page)
        for name in NAMES:  # figures of three decimals
            assert figure(page, name, "elbo") == pytest.approx(evidence(page) - figure(page, name, "kl"), abs=2e-3)

    bound_is_exact()
    before, said = places(), evidence(page)
    points = picture.locator(".point")
    drag(page, points.nth(1), -50, 0)  # x2 is seen
    assert all(new != old for new, old in zip(places(), before, strict=True)) and evidence(page) != said
    bound_is_exact()
    before, said = places(), evidence(page)
    drag(page, points.nth(0), 40, 0)  # x1 is hidden: nothing of it is read
    assert places() == before and evidence(page) == said
    points.nth(2).focus()
    page.keyboard.press("ArrowLeft")
    assert places() != before
    picture.get_by_role("button", name="hide x₂").click()
    picture.get_by_role("button", name="hide x₃").click()
    assert evidence(page) == 0  # of nothing
    assert figure(page, "scaled covariance", "kl") == 0 < figure(page, "mean imputation", "kl")
    picture.get_by_role("button", name="hide x₁").click()
    before = places()
    picture.locator(".loadings").check()
    drag(page, picture.locator(".loading circle").first, 20, 15)
    assert places() != before
    bound_is_exact()
    picture.locator(".hundred").click()
    assert picture.locator(".rows").text_content() == "100"
    assert abs(figure(page, "exact", "share-text") - 90) < 5 * 3  # standard error 3 %
    assert picture.locator(".truth").is_visible()
    picture.get_by_role("button", name="hide x₂").click()
    assert picture.locator(".rows").text_content() == "0"  # another pattern, another count
    picture.locator(".pattern").select_option("random")
    picture.locator(".hundred").click()
    picture.locator(".one").click()
    assert picture.locator(".rows").text_content() == "101"
    bound_is_exact()


@pytest.mark.browser
def test_the_page_does_not_scroll_sideways(page):
    for _ in range(2):  # with a question, and without
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if page.locator("#factor-analysis .skip").is_visible():
            page.locator("#factor-analysis .skip").click()
