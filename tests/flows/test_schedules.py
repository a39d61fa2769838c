"""Schedules and whatever else people set in Prefect: they run, and outlive restarts of `up`."""

from __future__ import annotations

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
from tests.flows.browser.test_train_and_promote import servers, wait_until
from tests.flows.helpers.prefect_client import deployment, due_runs, prefect_client
from tests.flows.test_cli_up import surroundings

NAMES = (
    "train-network",
    "train-module",
    "compose-network",
    "train-baseline",
    "retrain-network",
    "search-modules",
    "transfer-study",
    "measure-modules",
    maintenance.NAME,
)
EVERY = timedelta(seconds=14)
PREFETCH = timedelta(seconds=10)
"""How long before its time a runner may take a run."""

pytestmark = [
    pytest.mark.servers,
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
    spec = {**deployment(client, "train-network").parameters["spec"], "name": "by-schedule"}
    client.create_deployment_schedules(
        deployment(client, "train-network").id,
        [DeploymentScheduleCreate(schedule=yearly, parameters={"spec": spec})],
    )
    anchored = IntervalSchedule(
        interval=timedelta(days=300), anchor_date=datetime(2030, 1, 1, tzinfo=UTC), timezone="UTC"
    )
    client.create_deployment_schedules(deployment(client, "transfer-study").id, [(anchored, False)])
    house = deployment(client, maintenance.NAME)
    client.update_deployment_schedule(house.id, house.schedules[0].id, active=False)
    client.pause_deployment(deployment(client, "train-module").id)
    cancelling = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    change("compose-network", concurrency_limit=2, concurrency_options=cancelling)
    change("train-baseline", tags=["modkernel", "mine"], description="My own words.")
    change("search-modules", tags=[])
    change("measure-modules", parameters={"dataset": {"name": "fashion_mnist"}})
    change("retrain-network", job_variables={"env": {"A": "b"}}, enforce_parameter_schema=False)


def test_what_people_set_in_prefect_outlives_restarts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment, _, _ = surroundings(home)
    with servers(environment, home) as (_, prefect), prefect_client(prefect, home) as client:
        (daily,) = deployment(client, maintenance.NAME).schedules
        assert isinstance(daily.schedule, CronSchedule)
        assert (daily.schedule.cron, daily.active) == (f"0 {maintenance.HOUR} * * *", True)
        set_by_a_person(client)
        before = everything(client)
        written = {name: deployment(client, name).updated for name in NAMES}

    with servers(environment, home) as (_, prefect), prefect_client(prefect, home) as client:
        assert everything(client) == before
        assert {name: deployment(client, name).updated for name in NAMES} == written
        # As an older version would have left them.
        house = deployment(client, maintenance.NAME)
        client.delete_deployment_schedule(house.id, house.schedules[0].id)
        network = deployment(client, "train-network")
        client.update_deployment(network.id, DeploymentUpdate(entrypoint="flows.old.train"))
        before = everything(client)

    with servers(environment, home) as (_, prefect), prefect_client(prefect, home) as client:
        assert everything(client) == before
        assert deployment(client, "train-network").entrypoint == network.entrypoint
        assert not deployment(client, maintenance.NAME).schedules


def test_a_schedule_runs_and_one_missed_run_is_made_up_for(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment, _, _ = surroundings(home)

    def finished(client: SyncPrefectClient, house: DeploymentResponse) -> list[FlowRun]:
        runs = due_runs(client, house.id, datetime.now(UTC))
        return [run for run in runs if run.state_type == StateType.COMPLETED]

    with servers(environment, home) as (_, prefect), prefect_client(prefect, home) as client:
        house = deployment(client, maintenance.NAME)
        (made,) = client.create_deployment_schedules(
            house.id, [(IntervalSchedule(interval=EVERY, timezone="UTC"), True)]
        )
        wait_until(lambda: bool(finished(client, house)), 600, "a scheduled run finishes")

    off_since = datetime.now(UTC) + PREFETCH
    time.sleep((PREFETCH + 2.5 * EVERY).total_seconds())
    off_until = datetime.now(UTC)

    with servers(environment, home) as (_, prefect), prefect_client(prefect, home) as client:
        client.delete_deployment_schedule(house.id, made.id)
        missed = [
            run
            for run in due_runs(client, house.id, off_until)
            if run.expected_start_time and run.expected_start_time > off_since
        ]
        assert len(missed) >= 2
        # Of those left, the newest may have been due later than `off_until`, while `up` started.
        for run in missed[:-1]:
            assert run.state is not None
            assert (run.state_type, run.state.message) == (StateType.CANCELLED, MISSED)
        newest = missed[-1].expected_start_time
        assert newest is not None

        def made_up_for() -> bool:
            done = [run.expected_start_time for run in finished(client, house)]
            return any(due is not None and due >= newest for due in done)

        wait_until(made_up_for, 600, "the newest run that was missed finishes")
