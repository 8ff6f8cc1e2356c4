"""The page on this machine alone: one address, one page, four questions that it asks as one drags and draws."""

from __future__ import annotations

import json
import socket
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn import Config, Server

from ppvae.errors import Problem
from ppvae.explore.page import page
from ppvae.explore.views import View

HOST = "127.0.0.1"


def application(view: View) -> Starlette:
    """The page and its questions, as an ASGI application.

    ``GET /`` the page; ``POST /codes {latent}``, ``/row {row}``, ``/decode {row, latent, z}``, ``/infer {row, seen}``, as the
    methods of `View`. What cannot be answered meets 400 and the three sentences of a Problem. Answers are computed in
    the order asked, one at a time: Pyro's handlers are global to a process.
    """

    async def index(_: Request) -> Response:
        return HTMLResponse(page(view.about()))

    async def ask(request: Request) -> Response:
        try:
            return JSONResponse(_answer(view, request.path_params["question"], await request.body()))
        except Problem as problem:
            told = {"seen": problem.seen, "cause": problem.cause, "remedy": problem.remedy}
            return JSONResponse(told, 400)

    return Starlette(
        routes=[Route("/", index), Route("/{question}", ask, methods=["POST"])],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        ],  # no other site's name for it
    )


def _answer(view: View, question: str, body: bytes) -> dict[str, Any]:
    asked = {"codes": view.codes, "row": view.row, "decode": view.decode, "infer": view.infer}
    if question not in asked:
        raise Problem(f"there is no question {question!r}", "an address by hand", f"one of: {', '.join(asked)}")
    try:
        said = json.loads(body)
        if "seen" in said:
            said["seen"] = torch.tensor(said["seen"]).bool()
        return asked[question](**said)  # type: ignore[operator]
    except (ValueError, TypeError) as error:
        raise Problem(
            f"the question {question!r} cannot be read ({type(error).__name__})", "asked by hand", "the page asks them"
        ) from error


def bound(port: int) -> socket.socket:
    """A socket on this machine's own address.

    Args:
        port: 0 takes any that is free.

    Raises:
        Problem: the port is in use, or not allowed.
    """
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just left may be taken again
    try:
        taken.bind((HOST, port))
        taken.listen()
    except OSError as error:
        taken.close()
        raise Problem(
            f"the port {port} cannot be had ({error.strerror})",
            "another program, or another page of ppvae explore, has it",
            f"--port {port + 1 if 1023 < port < 65535 else 8001}, or --port 0 for any that is free",
        ) from error
    return taken


def serve(view: View, at: socket.socket) -> None:
    """Answer until Ctrl-C. A browser that goes away in the middle is forgotten."""
    view.infer(0, torch.ones(view.x.shape[1], dtype=torch.bool))  # the first of its kind takes ten times as long
    server = Server(Config(application(view), log_level="warning", timeout_graceful_shutdown=1))
    server.run(sockets=[at])
