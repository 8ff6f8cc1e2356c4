"""The page to touch: what it is told of a pair, its server, its recorded twin, and what a wrong input meets."""

import base64
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request

import examples
import numpy as np
import pytest
import torch
from pyro import poutine

import ppvae
from ppvae.cli.shared import Terminated
from ppvae.explore import record, server
from ppvae.explore.page import page
from ppvae.explore.record import BLOCKS, SIDE, blocks
from ppvae.explore.views import DRAWS, IMPUTATIONS, OTHERS, PARTICLES, ROWS, View


def view_of(name="factor_analysis_exact", latents=2, shape=None, **options):
    pair = examples.pair(name, latents=latents, **options)
    entries, mask = examples.data(pair, rows=12)
    entries["x"] = entries["x"].masked_fill(~mask, torch.nan)
    return View(pair, entries, shape, name=name, data="its own")


def levels(view, text):
    """What the bytes stand for, to half a step."""
    bytes_ = torch.tensor(np.frombuffer(base64.b64decode(text), np.uint8).copy()).to(view.x)
    return view.low + bytes_.reshape(-1, view.x.shape[1]) / 255 * (view.high - view.low)


def close(view, text, expected):
    expected = torch.atleast_2d(expected)
    clipped = torch.maximum(torch.minimum(expected, view.high), view.low)
    assert ((levels(view, text) - clipped).abs() <= 0.51 / 255 * (view.high - view.low)).all()


def test_a_rows_posterior_is_the_closed_form_one():
    view = view_of()
    seen = torch.arange(9) % 3 > 0
    answer = view.infer(2, seen)
    decoder, mask = view.pair.decoder, seen & ~view.x[2].isnan()
    story = [decoder.W.detach(), decoder.loc.detach(), decoder.scale.detach()]
    x, mask = view.x[[2]].nan_to_num(), mask[None]
    assert answer["evidence"] == pytest.approx(float(ppvae.exact.log_evidence(*story, x, mask)), abs=0.0051)
    z = torch.tensor(answer["z"]["z"])
    exact = ppvae.exact.posterior(*story, x, mask)
    error = exact.covariance_matrix[0].diagonal().sqrt() / DRAWS**0.5
    assert ((z.mean(0) - exact.mean[0]).abs() < 5 * error + 0.0005).all()
    observed = view.x[2].nan_to_num()
    for text in (answer["mean"], *[answer["draws"]]):
        off = (levels(view, text) - observed)[:, mask[0]].abs() / (view.high - view.low)[mask[0]]
        assert float(off.max()) <= 0.51 / 255
    sd = levels(view, answer["sd"]) - view.low
    assert float(sd[:, mask[0]].max()) == 0 and float(sd[:, ~mask[0]].min()) > 0


def test_what_was_seen_moves_it_and_the_same_mask_gives_the_same_answer():
    view = view_of()
    seen = torch.ones(9, dtype=torch.bool)
    first, again = view.infer(0, seen), view.infer(0, seen)
    assert first == again
    none = view.infer(0, ~seen)
    assert none["z"] != first["z"] and none["evidence"] == 0.0  # p of nothing is 1
    assert np.std(none["z"]["z"]) > np.std(first["z"]["z"])  # the prior is wider
    assert len(levels(view, none["draws"])) == IMPUTATIONS


def test_the_mean_at_a_place_is_the_storys():
    view = view_of()
    z = torch.tensor([0.5, -1.0])
    mean = view.pair.decoder.W.detach() @ z + view.pair.decoder.loc.detach()
    close(view, view.decode(0, "z", z.tolist())["image"], mean)


def test_latents_besides_the_planes_are_averaged():
    view = view_of("two_layer")
    assert view.latents == {"z2": 2, "z1": 4}
    z2 = torch.tensor([1.0, -0.5])
    torch.manual_seed(1)
    with torch.no_grad():  # rows that the story goes on to from there
        story = poutine.condition(view.pair.model, {"z2": z2.expand(4000, 1, 2)})
        means = poutine.trace(story).get_trace(size=4000).nodes["x"]["fn"].mean
    found = levels(view, view.decode(0, "z2", z2.tolist())["image"])
    error = means.std(0) * (1 / OTHERS + 1 / 4000) ** 0.5
    assert ((found - means.mean(0)).abs() < 5 * error + 0.51 / 255).all() and float(error.min()) > 0


@pytest.mark.parametrize("name", ppvae.names())
def test_every_pair_has_a_page(name):
    view = view_of(name)
    about = view.about()
    seen = torch.ones(view.x.shape[1], dtype=torch.bool)
    seen[::2] = False
    answer = view.infer(0, seen)
    assert set(answer["z"]) == set(view.latents)
    for latent, size in view.latents.items():
        codes = view.codes(latent)
        assert np.shape(codes["codes"]) == (12, size) and len(codes["axes"]) == min(2, size)
        assert len(levels(view, view.decode(0, latent, codes["codes"][0])["image"])) == 1
    json.dumps([about, answer])


def test_the_axes_are_where_rows_differ_most():
    view = view_of(latents=3)
    with torch.no_grad():
        view.pair.decoder.W[:, 1] = 0  # a latent that nothing hangs on
    assert view.codes("z")["axes"] == [0, 2]
    assert view_of(latents=1).codes("z")["axes"] == [0]


def test_images_and_tables_have_their_own_levels():
    image, table = (view_of(likelihood="normal", name="vae", shape=shape) for shape in ((1, 3, 3), None))
    assert image.about()["shape"] == (1, 3, 3) and table.about()["shape"] is None
    for ends in ("low", "high"):
        assert len(getattr(image, ends).unique()) == 1 and len(getattr(table, ends).unique()) == 9
    assert view_of("vae", shape=(1, 1, 9)).about()["shape"] is None  # one row of pixels is a table
    constant = View(image.pair, {"x": torch.ones(3, 9)}, None, name="", data="")
    assert torch.equal(constant.high - constant.low, torch.ones(9))


def test_only_the_first_rows_are_shown():
    pair = examples.pair("vae")
    view = View(pair, {"x": torch.rand(ROWS + 5, 9).round()}, label=torch.arange(ROWS + 5), name="", data="")
    assert view.about()["rows"] == ROWS == len(view.about()["label"])


# --- the server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address():
    view = view_of("vae")
    at = server.bound(0)
    running = server.Server(server.Config(server.application(view), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{at.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)
    assert not thread.is_alive()
    at.close()


def asked(address, question, said, **headers):
    data = said if isinstance(said, bytes) else json.dumps(said).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/{question}", data, headers), timeout=30
        ) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_gives_the_page_and_answers(address):
    found = urllib.request.urlopen(address, timeout=30).read().decode()
    told = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', found)[1])
    assert told["recorded"] is None and told["about"]["latents"] == {"z": 2} and told["about"]["particles"] == PARTICLES
    assert "http" not in found.replace("http://www.w3.org/2000/svg", "")  # asks nobody else
    assert asked(address, "infer", {"row": 0, "seen": [1] * 9})[0] == 200
    assert asked(address, "decode", {"row": 0, "latent": "z", "z": [0, 1]})[0] == 200
    assert asked(address, "codes", {"latent": "z"})[0] == 200 == asked(address, "row", {"row": 1})[0]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("infer", {"row": 99, "seen": [1] * 9}),
        ("infer", {"row": -1, "seen": [1] * 9}),
        ("infer", {"row": 0, "seen": [1] * 8}),
        ("infer", {"row": 0, "seen": "all"}),
        ("infer", {"row": "0", "seen": [1] * 9}),
        ("infer", {}),
        ("infer", b"{"),
        ("infer", [1]),
        ("decode", {"row": 0, "latent": "y", "z": [0, 0]}),
        ("decode", {"row": 0, "latent": "z", "z": [0]}),
        ("decode", {"row": 0, "latent": "z", "z": 1}),
        ("guess", {}),
    ],
)
def test_a_wrong_question_meets_a_message(address, question, said):
    status, told = asked(address, question, said)
    assert status == 400 and {"seen", "cause", "remedy"} == set(json.loads(told))


def test_other_names_for_this_machine_are_refused(address):
    assert asked(address, "row", {"row": 0}, Host="somewhere.example")[0] == 400


def test_a_browser_that_goes_away_is_forgotten(address):
    host, port = address.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{")
    time.sleep(0.1)
    assert asked(address, "row", {"row": 0})[0] == 200


def test_a_port_in_use_meets_a_message():
    with server.bound(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ppvae.Problem, match=f"port {port} cannot be had"):
            server.bound(port)


# --- the recorded page --------------------------------------------------------------------------------


def test_the_recorded_page_holds_the_answers(monkeypatch):
    monkeypatch.setattr(record, "SHOWN", 2)
    view = view_of("vae", shape=(1, 3, 3))
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', record.recorded(view))[1]
    told = json.loads(found)["recorded"]
    assert len(told["rows"]) == 2 and len(told["rows"][0]["inferred"]) == 2 ** (BLOCKS[0] * BLOCKS[1])
    live = view.infer(1, ~torch.isin(torch.tensor(told["blocks"]), torch.tensor([0, 2, 3])))
    for what in ("mean", "sd", "draws", "evidence"):
        assert told["rows"][1]["inferred"][0b001101][what] == live[what]
    grid = told["plane"]["grid"]
    assert len(grid) == SIDE and grid[0] == -grid[-1] and len(told["plane"]["codes"]) == 12
    assert told["rows"][1]["decoded"][0] == view.decode(1, "z", [grid[0], grid[-1]])["image"]  # its upper left


def test_blocks_are_sixths():
    image, table = view_of("vae", shape=(1, 3, 3)), view_of("vae")
    assert blocks(image).reshape(3, 3).tolist() == [[0, 0, 1], [2, 2, 3], [4, 4, 5]]
    assert blocks(table).tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5]


def test_no_word_of_the_data_ends_the_script():
    pair = examples.pair("vae")
    view = View(pair, {"x": torch.rand(3, 9).round()}, columns=["</script><b>"] * 9, name="<i>", data="&")
    assert not {"</script><b>", "<i>"} & set(re.findall(r"</script><b>|<i>", page(view.about())))


# --- the command --------------------------------------------------------------------------------------


def test_the_command_writes_a_page_or_says_what_is_wrong(ppvae_, monkeypatch):
    monkeypatch.setattr(record, "SHOWN", 1)
    with open("table.csv", "w") as file:
        file.write("a,b,long name\n" + "".join(f"{i},{i % 7},{'' if i % 3 else i % 5}\n" for i in range(40)))
    assert ppvae_("fit", "vae", "--data", "table.csv", "--epochs", 1, "--hidden", "4", "-o", "run", "--rows", 4)[0] == 0
    code, out, _ = ppvae_("explore", "run", "--export", "page.html")
    assert code == 0 and "page.html" in out and '"columns":["a","b","long name"]' in open("page.html").read()
    code, _, err = ppvae_("explore", "run", "--export", "page.html")
    assert code == 2 and "page.html exists" in err
    code, _, err = ppvae_("explore", "nowhere")
    assert code == 2 and "nowhere" in err
    code, _, err = ppvae_("explore", ".")
    assert code == 2 and "holds no fitted pair" in err
    with server.bound(0) as first:
        code, _, err = ppvae_("explore", "run", "--port", first.getsockname()[1])
        assert code == 2 and "cannot be had" in err and "--port" in err


def test_the_command_serves_until_it_is_stopped(ppvae_, monkeypatch):
    ppvae.save(examples.pair("vae", features=64, likelihood="normal"), "pair.pt")
    served, ends = [], [KeyboardInterrupt, Terminated]

    def serve(view, at):
        served.append((view.about(), at.getsockname()))
        raise ends[len(served) - 1]

    monkeypatch.setattr(server, "serve", serve)
    code, out, err = ppvae_("explore", "pair.pt", "--port", 0)
    assert code == 2 and "--data" in err
    code, out, err = ppvae_("explore", "pair.pt", "--port", 0, "--data", "digits")
    assert code == 0 and out.endswith("stopped\n") and f"http://127.0.0.1:{served[0][1][1]} until Ctrl-C" in out
    assert served[0][0]["data"] == "digits" and served[0][0]["shape"] == (1, 8, 8)
    assert ppvae_("explore", "pair.pt", "--port", 0, "--data", "digits")[0] == 143
