"""Prefect's own client, for the server that `modkernel up` of a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from modkernel.flows.servers.prefect_password import prefect_password
from modkernel.registry import Settings
from tests.flows.helpers.processes import wait_until


@contextmanager
def prefect_client(prefect: str, home: Path) -> Iterator[SyncPrefectClient]:
    """A client of the server that `modkernel up` of a home tells the link of."""
    password = prefect_password(Settings(home=home))
    with (
        temporary_settings({PREFECT_API_URL: f"{prefect}/api", PREFECT_API_AUTH_STRING: password}),
        get_client(sync_client=True) as client,
    ):
        yield client


def deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    """The deployment of the flow of this name."""
    return client.read_deployment_by_name(f"{name}/{name}")


def ask_for_decision(
    client: SyncPrefectClient, module: str, alias: str, seconds: float = 300
) -> UUID:
    """A run of the gate that waits for a decision on a module ('name/version')."""
    gate = deployment(client, "promote-module").id

    def is_a_choice() -> bool:
        form = client.read_deployment(gate).parameter_openapi_schema or {}
        return module in form["properties"]["module"]["enum"]

    wait_until(is_a_choice, seconds, "the candidate is a choice")
    asked = {"module": module, "alias": alias}
    run = client.create_flow_run_from_deployment(gate, parameters=asked).id

    def waits() -> bool:
        state = client.read_flow_run(run).state
        assert state is None or not state.is_final(), state
        return state is not None and state.name == "Suspended"

    wait_until(waits, seconds, "the run waits for a decision")
    return run


def wait_for_end(client: SyncPrefectClient, run: UUID, seconds: float = 300) -> FlowRun:
    """A run as it is once it has ended, which must be within so many seconds."""

    def ended() -> bool:
        state = client.read_flow_run(run).state
        return state is not None and state.is_final()

    wait_until(ended, seconds, "the run ends")
    return client.read_flow_run(run)


def due_runs(client: SyncPrefectClient, deployment: UUID, until: datetime) -> list[FlowRun]:
    """Runs that should have started by then, whatever has become of them; the first due first."""
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=until),
        )
    )
    return sorted(runs, key=lambda run: run.expected_start_time or until)
