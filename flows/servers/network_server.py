"""A server that answers pictures, or rows, with what a network says of them.

It speaks as MLflow's scoring server does, `POST /invocations` with `{"inputs": [...]}`, so that a
client can ask either; and it takes the bytes of one image file as they are.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from modkernel.data.given import read_given
from modkernel.errors import DataError, InterfaceError, SettingsError
from modkernel.flows.servers.reach import Reach, port_is_free
from modkernel.reuse.answer import Answer
from modkernel.spec import Preprocessing

MOST_BYTES = 32 << 20
"""Of a request."""
MOST_EXAMPLES = 1024
"""Of a request."""
SECONDS = 60.0
"""In which a request has to come in."""
CONNECTIONS = 64
"""At once; more are told to come back."""
FORMS = (
    'send {"inputs": [...]} as application/json, each input the base64 of an image file or an '
    "array, or one image file as image/png or image/jpeg"
)


class _Refused(Exception):
    """A request that is not answered: its status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _OwnHostsOnly:
    """Refuses requests under a name of somebody else's, which a page may have led here.

    The address that a request has come in at is this machine's own, whichever that is. Health
    tells nothing, and monitors ask for it by names that nobody here knows.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app = app
        self.named = TrustedHostMiddleware(app, allowed_hosts=list(names), www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answers = scope["type"] == "http" and (scope["path"] == "/health" or _by_address(scope))
        await (self.app if answers else self.named)(scope, receive, send)


def _by_address(scope: Scope) -> bool:
    """Whether the server was asked by the address that the request has come in at."""
    try:
        asked = ip_address(urlsplit(f"//{Request(scope).headers.get('host', '')}").hostname or "")
        return asked == ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return False


class _OwnPagesOnly:
    """Refuses what a page of another origin sends."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app, self.origins = app, frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            origin = Request(scope).headers.get("origin")
            if origin is not None and origin not in self.origins:
                refusal = _said(403, "Pages of other origins are not answered.")
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def network_app(
    answer: Callable[[Tensor], list[Answer]],
    takes: Preprocessing,
    about: dict[str, Any],
    reached: Reach,
    port: int,
) -> Starlette:
    """The server as an ASGI application.

    Args:
        answer: Answers to raw examples, as of `modkernel.reuse.answer.answering`.
        takes: What the network does to them first.
        about: What `GET /` says.
        reached: Under which names it is asked.
        port: It listens on.
    """
    one_at_a_time = CapacityLimiter(1)  # Torch takes all cores for one.

    def predicted(content: bytes, kind: str) -> JSONResponse:
        examples = read_given(_items(content, kind), takes)
        return JSONResponse({"predictions": answer(examples)})

    async def invocations(request: Request) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            content = await _body(request)
            return await to_thread.run_sync(
                predicted, content, kind, abandon_on_cancel=True, limiter=one_at_a_time
            )
        except _Refused as refused:
            return _said(refused.status, str(refused))
        except (DataError, InterfaceError) as error:
            return _said(400, str(error))

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def described(_: Request) -> JSONResponse:
        return JSONResponse(about)

    return Starlette(
        routes=[
            Route("/invocations", invocations, methods=["POST"]),
            Route("/health", health),
            Route("/", described),
        ],
        middleware=[
            Middleware(_OwnHostsOnly, names=reached.names),
            Middleware(_OwnPagesOnly, origins=reached.urls(port)),
        ],
    )


def serve_app(app: Starlette, reached: Reach, port: int, started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, which end it within a second.

    Args:
        app: As of `network_app`.
        reached: Where it listens.
        port: On which; not 0.
        started: Called once it listens.

    Raises:
        SettingsError: the port is taken, or the host is none of this machine.
    """
    if not port_is_free(port, reached.host):
        raise SettingsError(f"Port {port} is taken by another program: choose another with --port.")
    family = socket.AF_INET6 if ":" in reached.host else socket.AF_INET
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        ssl_certfile=reached.certificate,
        ssl_keyfile=reached.key,
    )
    with socket.create_server((reached.host, port), family=family) as listening:
        started()
        uvicorn.Server(config).run(sockets=[listening])


def _items(content: bytes, kind: str) -> Sequence[object]:
    """What is to be predicted of a request's body.

    Raises:
        _Refused: it is no such body.
    """
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [content]
    if kind != "application/json":
        raise _Refused(415, f"Content-Type '{kind[:80]}' is not read: {FORMS}.")
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        raise _Refused(400, f"The body is no JSON: {FORMS}.") from None
    inputs = given.get("inputs") if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(inputs, list):
        raise _Refused(400, f"The body has another form: {FORMS}.")
    if len(inputs) > MOST_EXAMPLES:
        raise _Refused(
            413, f"{len(inputs)} examples are more than {MOST_EXAMPLES}: send them in parts."
        )
    return inputs


async def _body(request: Request) -> bytes:
    too_large = _Refused(413, f"A request has at most {MOST_BYTES >> 20} MiB: send less at once.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MOST_BYTES:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > MOST_BYTES:
                    raise too_large
    except TimeoutError:
        raise _Refused(408, f"The request did not come in within {SECONDS:.0f} s.") from None
    except ClientDisconnect:
        raise _Refused(400, "The client went away.") from None
    return bytes(content)


def _said(status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": why}, status)
