"""Schedule a network in the home's Prefect, wait for a run of it, and print that as JSON.

`python -m tests.flows.helpers.run_schedule`: a process of its own, since Prefect reads its
surroundings once.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from modkernel.flows.servers.prefect_env import prepare_prefect
from modkernel.registry import Settings
from tests.flows.helpers.specs import tiny

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

FINISHED_SECONDS = 600


def run_of_a_schedule() -> FlowRun:
    """Schedule a tiny network every minute until a run of it begins, and wait for that run."""
    # Not above: Prefect reads its surroundings when it is imported.
    prepare_prefect(Settings())
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterCreatedBy
    from prefect.client.schemas.schedules import IntervalSchedule

    every_minute = IntervalSchedule(
        interval=timedelta(minutes=1), anchor_date=datetime.now(UTC) + timedelta(seconds=15)
    )
    wanted = DeploymentScheduleCreate(
        schedule=every_minute, parameters={"spec": tiny().model_dump(mode="json")}
    )
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("train-network/train-network")
        (schedule,) = client.create_deployment_schedules(deployment.id, [wanted])
        created = FlowRunFilter(created_by=FlowRunFilterCreatedBy(id_=[schedule.id]))
        begun: FlowRun | None = None
        deadline = time.monotonic() + FINISHED_SECONDS
        while time.monotonic() < deadline:
            time.sleep(1)
            runs = client.read_flow_runs(flow_run_filter=created, limit=200)
            if begun is None:
                begun = next((run for run in runs if not run.state.is_scheduled()), None)
                if begun is not None:  # On a slow machine the next ones would only hold it up.
                    client.update_deployment_schedule(deployment.id, schedule.id, active=False)
            elif (run := client.read_flow_run(begun.id)).state.is_final():
                return run
        raise TimeoutError(f"{len(runs)} run(s) were created, and none finished: {begun}")


if __name__ == "__main__":
    print(run_of_a_schedule().model_dump_json(include={"state", "auto_scheduled"}))
