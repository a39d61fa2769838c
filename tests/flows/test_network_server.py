"""The server that answers pictures: what it answers, and what it refuses with a sentence."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from modkernel.flows.servers import network_server as server
from modkernel.flows.servers.network_server import network_app
from modkernel.flows.servers.reach import Reach
from modkernel.modules.network import Network, assemble
from modkernel.reuse.answer import answering
from tests.modkernel.helpers.stored_examples import PREPROCESSING, store_hidden, store_output

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
OURS = "http://127.0.0.1:8000"
JSON = {"Content-Type": "application/json"}
PICTURE = {"Content-Type": "image/png"}
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder: Path = tmp_path_factory.mktemp("served")
    one, _ = store_hidden(folder / "1", ("stem",), (1, 8, 8), PREPROCESSING.id)
    out, _ = store_output(folder / "2", (2, 8, 8), one.id)
    return assemble([one, out])


@pytest.fixture(scope="module")
def ask(network: Network) -> Iterator[Ask]:
    app = network_app(answering(network, None), PREPROCESSING, {"network": "n"}, Reach(), 8000)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=OURS)
    with asyncio.Runner() as loop:
        yield lambda *about, **more: loop.run(client.request(*about, **more))


@pytest.fixture(scope="module")
def png() -> bytes:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def expected(network: Network) -> dict[str, float]:
    (row,) = network.predict(torch.from_numpy(PIXELS)[None, None]).tolist()
    return dict(zip("012", row, strict=True))


def test_a_picture_is_answered_in_every_form(ask: Ask, network: Network, png: bytes) -> None:
    raw = ask("POST", "/invocations", content=png, headers=PICTURE)
    assert raw.status_code == 200
    (one,) = raw.json()["predictions"]
    assert one["probabilities"] == pytest.approx(expected(network))
    assert one["label"] == max(expected(network), key=expected(network).__getitem__)
    assert one["distance"] is None
    inputs = [base64.b64encode(png).decode(), PIXELS.tolist(), PIXELS[None].tolist()]
    batch = ask("POST", "/invocations", json={"inputs": inputs})
    for each in batch.json()["predictions"]:
        assert each["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)
    assert len(batch.json()["predictions"]) == 3


def test_health_and_what_it_takes(ask: Ask) -> None:
    assert ask("GET", "/health").json() == {"status": "ok"}
    assert ask("GET", "/").json() == {"network": "n"}


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        ("10.0.0.5:8000", "/", 200),
        ("10.0.0.5", "/", 200),
        ("10.0.0.6:8000", "/", 400),
        ("evil.example", "/", 400),
        ("[", "/", 400),
        ("evil.example", "/health", 200),
        ("evil.example", "/health/", 400),
    ],
)
def test_it_is_asked_by_the_address_that_it_is_reached_at(
    network: Network, host: str, path: str, status: int
) -> None:
    """With 0.0.0.0 it answers at all of the machine's addresses, which are no names of its own."""
    app = network_app(
        answering(network, None), PREPROCESSING, {}, Reach("0.0.0.0", "box", ("box",)), 8000
    )
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(transport=transport, base_url="http://10.0.0.5:8000")
    with asyncio.Runner() as loop:
        answer = loop.run(client.get(path, headers={"Host": host}))
    assert answer.status_code == status


def as_body(content: bytes | dict[str, Any]) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "headers", "status", "sentence"),
    [
        (b"no image", PICTURE, 400, "Example 1 of 1 cannot be read: no image"),
        (b"{", JSON, 400, "The body is no JSON"),
        (b"\xff", JSON, 400, "The body is no JSON"),
        (b"[" * 100_000, JSON, 400, "The body is no JSON"),
        (b"9" * 5000, JSON, 400, "The body is no JSON"),
        ([1], JSON, 400, "another form"),
        ({"images": []}, JSON, 400, "another form"),
        ({"inputs": "x"}, JSON, 400, "another form"),
        ({"inputs": [], "path": "/etc/passwd"}, JSON, 400, "another form"),
        ({"inputs": []}, JSON, 400, "nothing to predict"),
        ({"inputs": ["/etc/passwd"]}, JSON, 400, "Example 1 of 1"),
        ({"inputs": [[[300]]]}, JSON, 400, "from 0 to 255"),
        ({"inputs": [None] * 1025}, JSON, 413, "1025 examples are more than 1024"),
        (b"x", {"Content-Type": "text/html"}, 415, "Content-Type 'text/html' is not read"),
        (b"x", {"Content-Length": str(1 << 40), **PICTURE}, 413, "at most 32 MiB"),
        (b"x", {"Host": "evil.example", **PICTURE}, 400, "Invalid host header"),
        (b"x", {"Origin": "http://evil.example", **PICTURE}, 403, "other origins"),
        (b"x", {"Origin": "null", **PICTURE}, 403, "other origins"),
    ],
)
def test_bad_requests_are_one_sentence(
    ask: Ask, content: Any, headers: dict[str, str], status: int, sentence: str
) -> None:
    answer = ask("POST", "/invocations", content=as_body(content), headers=headers)
    assert answer.status_code == status
    assert sentence in answer.text
    assert len(answer.text) < 600
    assert "Traceback" not in answer.text


def test_a_body_that_never_ends_is_cut_off(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_BYTES", 1000)

    async def parts() -> Any:
        while True:
            yield b"x" * 100

    answer = ask("POST", "/invocations", content=parts(), headers=PICTURE)
    assert answer.status_code == 413


def test_own_pages_may_ask(ask: Ask, png: bytes) -> None:
    answer = ask("POST", "/invocations", content=png, headers={"Origin": OURS, **PICTURE})
    assert answer.status_code == 200
