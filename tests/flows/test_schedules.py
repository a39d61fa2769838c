"""Schedules and whatever else people set in Prefect: they run, and outlive restarts of `up`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import (
    ConcurrencyLimitStrategy,
    ConcurrencyOptions,
    FlowRun,
    StateType,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from modkernel.flows import maintenance
from modkernel.flows.servers.registration import MISSED
from tests.flows.helpers.prefect_client import deployment, due_runs, prefect_client
from tests.flows.helpers.processes import leaders, wait_until
from tests.flows.helpers.servers import running_up, surroundings

NAMES = (
    "train-network",
    "train-module",
    "compose-network",
    "train-baseline",
    "retrain-network",
    "search-modules",
    "transfer-study",
    "measure-modules",
    "stitch-modules",
    "promote-module",
    maintenance.NAME,
)
RARELY, OFTEN = timedelta(seconds=90), timedelta(seconds=20)
"""How often a run is due: once before `up` stops, and twice and more while it is off.

A run takes seconds of a processor to start: more often, they alone would fill two cores.
"""
PREFETCH = timedelta(seconds=10)
"""How long before its time a runner may take a run."""

pytestmark = [
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def peoples_own(found: DeploymentResponse) -> dict[str, Any]:
    """What of a deployment belongs to people once it is made."""
    fields = "id tags description parameters paused job_variables concurrency_options"
    own = found.model_dump(mode="json", include=set(fields.split()))
    own["enforced"] = found.enforce_parameter_schema
    own["queue"] = (found.work_pool_name, found.work_queue_name)
    own["limit"] = getattr(found.global_concurrency_limit, "limit", None)
    own["schedules"] = sorted(
        (one.model_dump(mode="json", exclude={"created", "updated"}) for one in found.schedules),
        key=lambda one: str(one["id"]),
    )
    return own


def everything(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    return {name: peoples_own(deployment(client, name)) for name in NAMES}


def set_by_a_person(client: SyncPrefectClient) -> None:
    """One change of every kind, each as Prefect's pages make it."""

    def change(name: str, **fields: Any) -> None:
        client.update_deployment(deployment(client, name).id, DeploymentUpdate(**fields))

    yearly = CronSchedule(cron="0 5 1 1 *", timezone="Europe/Berlin")
    client.create_deployment_schedules(
        deployment(client, "train-network").id,
        [DeploymentScheduleCreate(schedule=yearly, parameters={"name": "by-schedule"})],
    )
    anchored = IntervalSchedule(
        interval=timedelta(days=300), anchor_date=datetime(2030, 1, 1, tzinfo=UTC), timezone="UTC"
    )
    client.create_deployment_schedules(deployment(client, "transfer-study").id, [(anchored, False)])
    house = deployment(client, maintenance.NAME)
    (daily,) = (one.id for one in house.schedules if isinstance(one.schedule, CronSchedule))
    client.update_deployment_schedule(house.id, daily, active=False)
    client.pause_deployment(deployment(client, "train-module").id)
    cancelling = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    change("compose-network", concurrency_limit=2, concurrency_options=cancelling)
    change("train-baseline", tags=["modkernel", "mine"], description="My own words.")
    change("search-modules", tags=[])
    change("measure-modules", parameters={"dataset": "fashion_mnist"})
    change("retrain-network", job_variables={"env": {"A": "b"}}, enforce_parameter_schema=False)


def finished(client: SyncPrefectClient, house: DeploymentResponse) -> list[FlowRun]:
    runs = due_runs(client, house.id, datetime.now(UTC))
    return [run for run in runs if run.state_type == StateType.COMPLETED]


def test_schedules_run_and_what_people_set_stays(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    environment, _, _ = surroundings(home)
    with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
        house = deployment(client, maintenance.NAME)
        (daily,) = house.schedules
        assert isinstance(daily.schedule, CronSchedule)
        assert (daily.schedule.cron, daily.active) == (f"0 {maintenance.HOUR} * * *", True)
        soon = datetime.now(UTC) + timedelta(seconds=20)
        rarely = IntervalSchedule(interval=RARELY, anchor_date=soon, timezone="UTC")
        (often,) = client.create_deployment_schedules(house.id, [(rarely, True)])
        set_by_a_person(client)  # Which makes the server create the runs that are due again.
        wait_until(lambda: bool(finished(client, house)), 600, "a scheduled run finishes")
        every = IntervalSchedule(interval=OFTEN, anchor_date=soon, timezone="UTC")
        client.update_deployment_schedule(house.id, often.id, schedule=every)

        def made_ahead() -> int:
            return len(due_runs(client, house.id, datetime.now(UTC) + PREFETCH + 3 * OFTEN))

        wait_until(lambda: made_ahead() > 3, 120, "the runs of the next half minute are made")
        before = everything(client)
        written = {name: deployment(client, name).updated for name in NAMES}

    off_since = datetime.now(UTC) + PREFETCH
    time.sleep((PREFETCH + 2.5 * OFTEN).total_seconds())
    off_until = datetime.now(UTC)

    with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
        assert everything(client) == before
        assert {name: deployment(client, name).updated for name in NAMES} == written
        client.delete_deployment_schedule(house.id, often.id)
        check_missed_runs(client, house, off_since, off_until)
        # As an older version would have left them.
        client.delete_deployment_schedule(house.id, daily.id)
        network = deployment(client, "train-network")
        client.update_deployment(network.id, DeploymentUpdate(entrypoint="flows.old.train"))
        before = everything(client)
        (serving,), killed = leaders(home, "modkernel.flows.cli serve"), datetime.now(UTC)
        os.kill(serving, signal.SIGKILL)  # `up` starts it again.

        def served_again() -> bool:  # Asked for work, which begins once all are made.
            asked = deployment(client, maintenance.NAME).last_polled
            return asked is not None and asked > killed

        wait_until(served_again, 300, "all deployments are served again")
        assert everything(client) == before
        assert deployment(client, "train-network").entrypoint == network.entrypoint
        assert not deployment(client, maintenance.NAME).schedules


def check_missed_runs(
    client: SyncPrefectClient, house: DeploymentResponse, since: datetime, until: datetime
) -> None:
    """Of the runs that were due while nothing ran, the newest is made up for, the rest are not."""
    missed = [
        run
        for run in due_runs(client, house.id, until)
        if run.expected_start_time and run.expected_start_time > since
    ]
    assert len(missed) >= 2
    # Of those left, the newest may have been due later than `until`, while `up` started.
    for run in missed[:-1]:
        assert run.state is not None
        assert (run.state_type, run.state.message) == (StateType.CANCELLED, MISSED)
    newest = missed[-1].expected_start_time
    assert newest is not None

    def made_up_for() -> bool:
        done = [run.expected_start_time for run in finished(client, house)]
        return any(due is not None and due >= newest for due in done)

    wait_until(made_up_for, 600, "the newest run that was missed finishes")
