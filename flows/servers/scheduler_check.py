"""Whether the Prefect server in use turns schedules into runs."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterCreatedBy,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.server.schemas.schedules import SCHEDULE_TYPES
from pydantic import TypeAdapter

PATIENCE_SECONDS = 90.0
"""A server looks for missing runs as it starts, and then every 60 s unless told otherwise."""
HORIZON = timedelta(days=7)
"""How far ahead a run must exist; the server's own limit is 100 days."""
AT_MOST = 20
"""Schedules that are looked at: a server that creates no runs creates none for any of them."""
POLL_SECONDS = 2.0


def due_schedules(client: SyncPrefectClient) -> dict[UUID, str]:
    """Schedules by id that are switched on and have a date within the horizon, with a name each."""
    return {
        schedule.id: deployment.name
        for deployment in client.read_deployments()
        if not deployment.paused
        for schedule in deployment.schedules
        if schedule.active and _is_due(schedule)
    }


def without_runs(client: SyncPrefectClient, patience: float = PATIENCE_SECONDS) -> tuple[str, ...]:
    """Deployments with a schedule for which the server has created no run ahead, sorted.

    A server that was started a moment ago, or a schedule that was made then, gets time first: no
    clock tells how long either has been there.

    Args:
        client: of the server.
        patience: seconds to wait for runs that are missing.

    Raises:
        httpx.HTTPError: the server does not answer, or refuses.
    """
    missing = dict(list(due_schedules(client).items())[:AT_MOST])
    deadline = time.monotonic() + patience
    while True:
        missing = {id: name for id, name in missing.items() if not _has_run(client, id)}
        if not missing or time.monotonic() >= deadline:
            return tuple(sorted(set(missing.values())))
        time.sleep(POLL_SECONDS)


def _is_due(schedule: DeploymentSchedule) -> bool:
    now = datetime.now(UTC)
    # The client's schedules cannot tell their dates, the server's can.
    dated = TypeAdapter[SCHEDULE_TYPES](SCHEDULE_TYPES).validate_python(
        schedule.schedule.model_dump()
    )
    return bool(asyncio.run(dated.get_dates(n=1, start=now, end=now + HORIZON)))


def _has_run(client: SyncPrefectClient, schedule: UUID) -> bool:
    ahead = FlowRunFilter(
        created_by=FlowRunFilterCreatedBy(id_=[schedule]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(after_=datetime.now(UTC)),
    )
    return bool(client.read_flow_runs(flow_run_filter=ahead, limit=1))
