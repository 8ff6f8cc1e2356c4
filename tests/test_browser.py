"""The built site and the page of `ppvae explore` in a real browser: make browser."""

import re
import statistics
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import ppvae
from ppvae.explore import server
from ppvae.explore.views import View

pytestmark = pytest.mark.browser


# --- the site -----------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, file):
        super().__init__()
        self.addresses, self.anchors = [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}


def test_no_link_is_broken(site):
    pages = {file: Links(file) for file in site.rglob("*.html") if file.name != "recorded.html"}
    assert len(pages) > 60
    broken = []
    for file, links in pages.items():
        for address in links.addresses:
            if re.match(r"[a-z]+:", address):
                continue
            where, _, anchor = address.partition("#")
            target = (file.parent / where.split("?")[0]).resolve() if where else file
            if (
                target.is_dir()
                or not target.exists()
                or anchor
                and target.suffix == ".html"
                and target in pages
                and anchor not in pages[target].anchors
            ):
                broken.append((file.name, address))
    assert broken == []


@pytest.mark.parametrize("width", (1280, 390))
def test_every_page_loads_and_fits(site, browse, width):
    wide = []
    page = browse((site / "index.html").as_uri(), width)
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(file.name)
    assert wide == []


@pytest.fixture
def served(site):
    """The site's address on a server, as readers have it: from a folder a browser lets no page read another."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_search_finds_iw_elbo(served, browse):
    page = browse(f"{served}/search.html?q=iw_elbo")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").all_text_contents()
    assert any("iw_elbo" in name for name in found), found
    page.locator("#search-results li a").first.click()
    page.wait_for_load_state()
    assert "iw_elbo" in page.content()


def test_formulas_are_drawn(site, browse):
    page = browse((site / "mathematics" / "bounds.html").as_uri())
    formula = page.locator("math[display=block]").first
    assert formula.bounding_box()["height"] > 15


# --- the page to touch --------------------------------------------------------------------------------


def made(latents, side):
    """A VAE of images of that side; what it is worth plays no part here."""
    torch.set_default_dtype(torch.float32)
    digits = ppvae.data.load("digits")
    torch.manual_seed(0)
    images = digits.rows("test").reshape(-1, 1, 8, 8)
    x = torch.nn.functional.interpolate(images, (side, side)).flatten(1)
    pair = ppvae.make("vae", features=side * side, latents=latents, likelihood="normal")
    ppvae.fit(pair, x, epochs=20)
    return View(pair, {"x": x}, (1, side, side), digits.labels("test"), name="vae", data="digits")


@pytest.fixture(scope="module", params=((2, 8), (20, 28)), ids=("8 x 8", "28 x 28"))
def address(request):
    at = server.bound(0)
    running = server.Server(server.Config(server.application(made(*request.param)), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{at.getsockname()[1]}/"
    running.should_exit = True
    thread.join(10)
    at.close()


def pixels(page, canvas):
    return page.locator(f"#{canvas}").evaluate("canvas => canvas.toDataURL()")


def changed(page, canvas, act):
    """Milliseconds from an act to another picture on a canvas, as the browser's clock has them."""
    page.evaluate(
        """(name) => {
            const canvas = document.getElementById(name), before = canvas.toDataURL();
            window.changed = new Promise((done) => {
                const began = performance.now();
                const look = () => {
                    const after = performance.now() - began;
                    if (canvas.toDataURL() !== before || after > 5000) done(after); else requestAnimationFrame(look);
                };
                look();
            });
        }""",
        canvas,
    )
    act()
    return page.evaluate("window.changed")


@pytest.mark.parametrize("width", (1280, 390))
def test_dragging_moves_the_decoded_image_and_erasing_the_posterior(address, browse, width, capsys, request):
    page = browse(address, width)
    page.wait_for_selector("#numbers:not(:empty)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("#choices").is_visible() == (page.locator("#held").inner_text() != "")  # which two of more

    plane = page.locator("#plane")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    corner = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.08, 0.92)]
    page.mouse.move(*corner[0])
    page.mouse.down()
    drags = [changed(page, "decoded", lambda at=at: page.mouse.move(*at)) for at in corner[::-1] * 3]
    page.mouse.up()
    assert page.locator("#place").inner_text() != "(0.00, 0.00)"

    shown = page.locator("#shown")
    shown.scroll_into_view_if_needed()
    box = shown.bounding_box()
    strokes = []
    for i in range(6):
        at = box["x"] + (0.07 + 0.15 * i) * box["width"], box["y"] + 0.45 * box["height"]
        page.mouse.move(*at)
        strokes.append(changed(page, "sd", lambda: (page.mouse.down(), page.mouse.up())))
    seen = int(page.locator("#numbers").inner_text().split()[0])
    size = int(page.locator("#numbers").inner_text().split()[2])
    assert seen < size
    page.get_by_role("button", name="restore all").click()
    page.wait_for_function("document.getElementById('numbers').textContent.startsWith('" + f"{size} ')")
    assert max(drags + strokes) < 5000  # when it is given up
    with capsys.disabled():
        figures = [f"{statistics.median(times):.0f} (most {max(times):.0f})" for times in (drags, strokes)]
        print(
            f"\n{request.node.callspec.id}: the image follows a drag after {figures[0]} ms, the posterior an eraser after {figures[1]} ms"
        )


def test_keys_move_the_ring_and_dots_take_rows(address, browse):
    page = browse(address)
    page.wait_for_selector("#numbers:not(:empty)")
    before = page.locator("#place").inner_text()
    page.locator("#ring").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#place").inner_text() != before
    page.locator(".code[data-row='7']").dispatch_event("pointerdown", {"pointerId": 1})
    page.wait_for_function("document.getElementById('row').value === '7'")
