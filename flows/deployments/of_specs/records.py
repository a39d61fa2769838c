"""Making, listing, removing and serving deployments of spec files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID
from zoneinfo import available_timezones

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.server.schemas.schedules import CronSchedule as CronTimes

from modkernel.errors import NotFoundError, SpecError
from modkernel.flows.deployments.of_specs.kinds import FLOWS, check_can_be, flow_parameters, kind_of
from modkernel.flows.deployments.of_specs.summary import summary
from modkernel.flows.servers.registration import (
    KeptDeployment,
    deployments_of_specs,
    is_of_spec,
    skip_missed_runs,
)
from modkernel.flows.specs.read import read_spec_of_some_kind, validated
from modkernel.spec import Name

BY_NAME = {flow.name: flow for flow in FLOWS.values()}
FROM_TERMINAL = "from-terminal"
"""Slug of the schedule that --cron sets; schedules that people set in Prefect have none."""
LOOK_SECONDS = 3.0
"""How often a serving process looks for deployments that are new."""
EXAMPLE = "0 3 * * *"
ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]


@dataclass(frozen=True)
class Deployed:
    """A deployed spec, as Prefect has it."""

    name: str
    flow: str
    description: str
    schedules: tuple[str, ...]
    paused: bool
    next_run: datetime | None
    id: str
    last_run: datetime | None
    """When the run that ended last did so."""
    last_state: str | None
    """How it ended: Completed, Failed, …"""


def cron_schedule(cron: str, timezone: str) -> CronSchedule:
    """The schedule that --cron and --timezone name.

    Raises:
        SpecError: there is no such schedule or time zone.
    """
    if timezone not in available_timezones():
        raise SpecError(
            f"There is no time zone '{timezone}': use a name such as Europe/Berlin or UTC."
        )
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValueError:
        raise SpecError(
            f"--cron '{cron}' is no schedule: give minute, hour, day, month and weekday, such as "
            f"'{EXAMPLE}' for every day at 3 o'clock."
        ) from None


def deploy(path: Path, name: str | None, schedule: CronSchedule | None) -> Deployed:
    """Make a deployment of a spec file, or bring the one of that name up to the file.

    Schedules, pause and tags of one that is there stay as they are, except that a schedule given
    here takes the place of the one that was given here before.

    Args:
        path: of the file.
        name: of the deployment; the spec's own if left out.
        schedule: when it runs; by hand, or as people set in Prefect, if left out.

    Raises:
        SpecError: the file cannot be read, or the name is a flow's own.
        ModkernelError: what the spec asks for cannot be.
    """
    spec = read_spec_of_some_kind(path, kind_of)
    flow = FLOWS[type(spec)]
    name = validated(Name, name or spec.name, "--name")
    check_can_be(spec)
    parameters, description = flow_parameters(spec), summary(spec)
    made = KeptDeployment.of(flow, name, description, parameters, of_spec=True)
    with get_client(sync_client=True) as client:
        _check_other_flows(client, made)
        id = made.apply()
        kept = client.read_deployment(id)
        if (kept.parameters, kept.description) != (parameters, description):
            client.update_deployment(
                id, DeploymentUpdate(parameters=parameters, description=description)
            )
        if schedule is not None:
            for old in kept.schedules:
                if old.slug == FROM_TERMINAL:
                    client.delete_deployment_schedule(id, old.id)
            wanted = DeploymentScheduleCreate(schedule=schedule, slug=FROM_TERMINAL)
            client.create_deployment_schedules(id, [wanted])
        return _deployed(client, client.read_deployment(id), flow.name)


def undeploy(name: str) -> str:
    """Remove a deployed spec, its schedules and the runs that have not begun.

    Args:
        name: of the deployment, as of `deployed`.

    Returns:
        The name of its flow.

    Raises:
        NotFoundError: no spec is deployed under that name.
    """
    with get_client(sync_client=True) as client:
        for flow in FLOWS.values():
            try:
                kept = client.read_deployment_by_name(f"{flow.name}/{name}")
            except ObjectNotFound:
                continue
            if is_of_spec(kept):
                client.delete_deployment(kept.id)
                return flow.name
    names = ", ".join(one.name for one in deployed())
    remedy = f"choose from {names}" if names else "'modkernel deploy SPEC.yaml' makes one"
    raise NotFoundError(f"No spec is deployed as '{name}': {remedy}.")


def deployed() -> tuple[Deployed, ...]:
    """All deployed specs, by name."""
    found = asyncio.run(deployments_of_specs(list(BY_NAME)))
    with get_client(sync_client=True) as client:
        made = [_deployed(client, kept, flow) for flow, kept in found]
    return tuple(sorted(made, key=lambda one: one.name))


async def serve_deployed(runner: Runner, say: Callable[[str], None]) -> None:
    """Take up what is deployed, now and as long as the runner serves.

    Args:
        runner: takes the runs.
        say: is told of each deployment that is new, and once when the server does not answer.
    """
    taken: set[UUID] = set()
    first, told = True, False
    while True:
        try:
            for flow, kept in await deployments_of_specs(list(BY_NAME)):
                if kept.id not in taken:
                    made = KeptDeployment.of_kept(BY_NAME[flow], kept)
                    if first:
                        await skip_missed_runs([made.full_name])
                    await runner.aadd_deployment(made)
                    taken.add(kept.id)
                    say(f"Serving {made.full_name}")
            first, told = False, False
        except Exception as error:  # Whatever the client raises of a server that is away.
            if not told:
                say(f"Cannot look for new deployments, and goes on trying: {error}")
            told = True
        await asyncio.sleep(LOOK_SECONDS)


def _check_other_flows(client: SyncPrefectClient, made: KeptDeployment) -> None:
    """One name, one deployment: `undeploy` and people go by it."""
    for flow in FLOWS.values():
        other = f"{flow.name}/{made.name}"
        try:
            kept = client.read_deployment_by_name(other)
        except ObjectNotFound:
            continue
        if not is_of_spec(kept):
            raise SpecError(
                f"There is a deployment {other} already, which was made of no spec: give another "
                "--name."
            )
        if other != made.full_name:
            raise SpecError(
                f"There is a deployment {other} already, of another flow: give another --name, or "
                f"remove that one first ('modkernel undeploy {made.name}')."
            )


def _deployed(client: SyncPrefectClient, kept: DeploymentResponse, flow: str) -> Deployed:
    last = _first_run(client, kept, ENDED, FlowRunSort.END_TIME_DESC)
    return Deployed(
        name=kept.name,
        flow=flow,
        description=kept.description or "",
        schedules=tuple(
            f"{_told(one.schedule)}{'' if one.active else ' (switched off)'}"
            for one in kept.schedules
        ),
        paused=kept.paused,
        next_run=_next_run(client, kept),
        id=str(kept.id),
        last_run=None if last is None else last.end_time,
        last_state=None if last is None else last.state_name,
    )


def _told(schedule: object) -> str:
    match schedule:
        case CronSchedule():
            return f"{schedule.cron} {schedule.timezone or 'UTC'}"
        case IntervalSchedule():
            return f"every {schedule.interval}"
    return "by a rule"


def _next_run(client: SyncPrefectClient, kept: DeploymentResponse) -> datetime | None:
    run = _first_run(client, kept, [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC)
    if run is not None or kept.paused:
        return None if run is None else run.expected_start_time
    # The server makes the runs of a new schedule some seconds later.
    times = [
        # Copied, Prefect's own kind of time would lose its zone.
        datetime.fromtimestamp(time.timestamp(), UTC)
        for one in kept.schedules
        if one.active and isinstance(one.schedule, CronSchedule)
        for time in asyncio.run(CronTimes(**one.schedule.model_dump()).get_dates(1))
    ]
    return min(times, default=None)


def _first_run(
    client: SyncPrefectClient,
    kept: DeploymentResponse,
    states: list[StateType],
    order: FlowRunSort,
) -> FlowRun | None:
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[kept.id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
        ),
        sort=order,
        limit=1,
    )
    return runs[0] if runs else None
