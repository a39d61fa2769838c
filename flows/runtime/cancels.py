"""A cancel in Prefect of a run that no runner looks after, such as a command's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from modkernel.flows.runtime.interrupts import stop_all

LOOK_SECONDS = 2.0
"""How often the server is asked."""
SERVED = "PREFECT__FLOW_RUN_ID"
"""In the environment of a run that a runner started: that one is ended by its runner."""


@contextmanager
def cancels_stop_all() -> Iterator[threading.Event]:
    """Within the block, of a flow, `stop_all` is called once its run is cancelled in Prefect.

    Yields:
        Is set where that was so.
    """
    cancelled, over = threading.Event(), threading.Event()
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or SERVED in os.environ:
        yield cancelled
        return
    watch = threading.Thread(
        target=_watch, args=(context.flow_run.id, cancelled, over), name="cancels", daemon=True
    )
    watch.start()
    try:
        yield cancelled
    finally:
        over.set()


def _watch(run: UUID, cancelled: threading.Event, over: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not over.wait(LOOK_SECONDS):
            try:
                state = client.read_flow_run(run).state
            except Exception:  # Whatever the client raises of a server that is away for a while.
                continue
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                cancelled.set()
                stop_all()
                return
