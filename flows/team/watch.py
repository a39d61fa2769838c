"""The states of all runs that this process waits for, asked of the server together."""

from __future__ import annotations

import threading
import time
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError

FRESH_SECONDS = 2.5
"""How long an answer holds: whoever asks within it gets the one that another has got."""
KEPT_SECONDS = 30.0
"""How long a run is asked for that nobody asks about any more."""
_lock = threading.Lock()
_asked: dict[UUID, float] = {}
_answer: tuple[float, dict[UUID, State]] = (0.0, {})


def states_of(run: UUID) -> dict[UUID, State] | None:
    """The state of each run that is there, among them `run` if it is.

    None where the server does not answer.
    """
    global _answer
    with _lock:
        now = time.monotonic()
        is_new = run not in _asked
        _asked[run] = now
        if is_new or now - _answer[0] > FRESH_SECONDS:
            for other in [one for one, at in _asked.items() if now - at > KEPT_SECONDS]:
                del _asked[other]
            try:
                with get_client(sync_client=True) as client:
                    ids = FlowRunFilter(id=FlowRunFilterId(any_=list(_asked)))
                    found = client.read_flow_runs(flow_run_filter=ids, limit=200)
            except (httpx.HTTPError, PrefectHTTPStatusError):
                return None
            _answer = (now, {one.id: one.state for one in found if one.state is not None})
        return _answer[1]
