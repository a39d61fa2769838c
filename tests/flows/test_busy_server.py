"""Many who write to Prefect's server at once: each is answered, and none has to ask again."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modkernel.flows.servers.prefect_password import basic_authorization
from tests.flows.helpers.servers import Up

WRITERS, RUNS = 6, 2
pytestmark = pytest.mark.servers


def ask(up: Up, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer to a POST, as a page makes it: no status is asked for again."""
    request = urllib.request.Request(
        f"{up.prefect}/api/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": basic_authorization(up.password)},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, {}


def test_nobody_who_writes_is_refused(up: Up) -> None:
    _, flow = ask(up, "flows/", {"name": "busy"})
    paused = {"type": "PAUSED", "state_details": {"pause_timeout": "2040-01-01T00:00:00Z"}}

    def write(_: int) -> Counter[tuple[str, int]]:
        told: Counter[tuple[str, int]] = Counter()
        for _ in range(RUNS):
            status, run = ask(up, "flow_runs/", {"flow_id": flow["id"], "state": paused})
            told["create", status] += 1
            if status == 201:
                told["resume", ask(up, f"flow_runs/{run['id']}/resume", {})[0]] += 1
        return told

    with ThreadPoolExecutor(WRITERS) as pool:
        told = sum(pool.map(write, range(WRITERS)), Counter())
    assert told == {("create", 201): WRITERS * RUNS, ("resume", 201): WRITERS * RUNS}
    assert "database is locked" not in (up.home / "logs" / "prefect.log").read_text()
