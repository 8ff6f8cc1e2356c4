"""What the tests share: float64 unless a test says otherwise, a seed, and a clean parameter store."""

import os
import shutil
import sys
from pathlib import Path

import pyro
import pytest
import torch

os.environ["COLUMNS"] = "200"  # lines that no test finds broken; a console takes it when it is made
torch.set_num_threads(1)  # small tensors: two threads on two busy cores only wait for each other


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def data_folder():
    """The folder of real data; skips where there is none."""
    folder = os.environ.get("PPVAE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PPVAE_DATA names no folder of real data")
    return Path(folder)


@pytest.fixture
def ppvae_(monkeypatch, capfd, tmp_path):
    """Run a command in an empty folder, in float32: (exit code, standard output, standard error)."""
    from ppvae.cli import main

    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ppvae", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def site():
    """The folder of the built site; skips where none is named."""
    folder = os.environ.get("PPVAE_SITE")
    if not folder:
        pytest.skip("PPVAE_SITE names no built site: make browser builds it")
    return Path(folder).resolve()


LEFT = "net::ERR_ABORTED"  # the page was left before its icon had come


@pytest.fixture
def browse():
    """Open a page in Chromium: ``browse(address, width)``. What its console complains of, a request that fails, and one that
    goes elsewhere fail the test."""
    driver = pytest.importorskip("playwright.sync_api")
    complaints = []
    with driver.sync_playwright() as player:
        try:
            chromium = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except driver.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")

        def browse(address, width=1280):
            home = address.split("://", 1)[0] + "://" + address.split("://", 1)[1].split("/", 1)[0]
            page = chromium.new_page(viewport={"width": width, "height": 800})
            page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("requestfailed", lambda sent: sent.failure == LEFT or complaints.append(sent.url))
            page.on("request", lambda sent: sent.url.startswith((home, "data:")) or complaints.append(sent.url))
            page.goto(address)
            return page

        yield browse
        chromium.close()
    assert complaints == []
