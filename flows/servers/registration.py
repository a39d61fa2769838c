"""Registering deployments so that what people set in Prefect stays, whatever starts or restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.logging import get_logger
from prefect.schedules import Schedule
from prefect.states import Cancelled
from prefect.types._datetime import now
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import ParameterSchema
from pydantic import PrivateAttr

from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.flows.servers.work_pools import FLOWS, Pool, has_pool

OF_SPEC = ParameterSchema(
    title="Parameters",
    type="object",
    properties={},
    required=[],
    definitions={"FilledInByASpecFile": {}},
)
"""The form of a deployment that was made of a spec file: no fields, and a mark.

It is the mark since it is ours: tags and descriptions are people's to change."""
STORED = "stored"
"""Key in a form's schema, beside a field's choices, that says which of the registry they are."""
MARGIN = timedelta(seconds=2)
"""By which the server's clock may be behind."""
PAGE = 200
"""Runs that the server lists at once, at most."""
MISSED = "Not started in time. A later run of the same schedule makes up for it."


class KeptDeployment(RunnerDeployment):
    """A deployment that is made once; after that only what the code decides is brought up to date.

    That is where the code is found, its version, and the form of its parameters. Schedules, pause,
    concurrency limit, tags, description, default parameters, job variables and the work pool are
    given when the deployment is made and never touched again: they belong to people then. Only a
    deployment without a pool gets the team's, once the server has that.

    Prefect's own deployment writes all of it at every start. This overrides its two public
    methods, so that `serve` and `Runner` need no change.
    """

    _kept: DeploymentResponse | None = PrivateAttr(None)
    _pool: Pool = PrivateAttr(FLOWS)
    _run: Flow[..., Any] | None = PrivateAttr(None)

    @classmethod
    def of(
        cls,
        run: Flow[..., Any],
        name: str,
        description: str,
        parameters: dict[str, Any],
        schedule: Schedule | None = None,
        of_spec: bool = False,
        pool: Pool = FLOWS,
    ) -> KeptDeployment:
        """A deployment of one of our flows.

        Args:
            run: the flow.
            name: of the deployment.
            description: for people.
            parameters: that are filled in.
            schedule: when it runs, if it is made now.
            of_spec: whether a spec file says it all, so that the form asks for nothing, and a
                schedule set in Prefect overrides nothing.
            pool: whose workers take its runs, where the server has a team's pools.
        """
        made = cls.from_flow(
            run,
            name=name,
            version=OUR_VERSION,
            description=description,
            parameters=parameters,
            tags=["modkernel"],
            entrypoint_type=EntrypointType.MODULE_PATH,
            schedule=schedule,
        )
        assert isinstance(made, KeptDeployment)
        made._run, made._pool = run, pool
        if of_spec:
            made._parameter_openapi_schema = OF_SPEC
        return made

    @classmethod
    def of_kept(cls, run: Flow[..., Any], kept: DeploymentResponse) -> KeptDeployment:
        """A deployment of a spec file that Prefect has: never made again if it is removed.

        Args:
            run: its flow.
            kept: what Prefect has of it.
        """
        made = cls.of(run, kept.name, "", kept.parameters, of_spec=True)
        made._kept = kept
        return made

    @property
    def run(self) -> Flow[..., Any] | None:
        """The flow."""
        return self._run

    def show(self, form: ParameterSchema) -> None:
        """Show this form from the next time on that the deployment is made or brought up to date.

        The server refuses what it does not allow.
        """
        self._parameter_openapi_schema = form

    async def refresh(self) -> None:
        """Bring the deployment up to date, unless people have deleted it."""
        async with get_client() as client:
            with suppress(ObjectNotFound):
                kept = await client.read_deployment_by_name(self.full_name)
                await self._bring_up_to_date(client, kept)

    async def aapply(self, *args: Any, **kwargs: Any) -> UUID:
        """Make the deployment, or bring it up to date; its id.

        Args:
            args: of the method that this overrides; they only say how to make it.
            kwargs: likewise.
        """
        async with get_client() as client:
            if self._kept is not None:
                with suppress(ObjectNotFound):
                    kept = await client.read_deployment(self._kept.id)
                    await self._bring_up_to_date(client, kept)
                return self._kept.id
            try:
                kept = await client.read_deployment_by_name(self.full_name)
            except ObjectNotFound:
                kept = await client.read_deployment(await super().aapply(*args, **kwargs))
            await self._bring_up_to_date(client, kept)
            return kept.id

    def apply(self, *args: Any, **kwargs: Any) -> UUID:
        """`aapply`, outside of an event loop."""
        return asyncio.run(self.aapply(*args, **kwargs))

    async def _bring_up_to_date(self, client: PrefectClient, kept: DeploymentResponse) -> None:
        # The form has no public name; a test holds that it is there.
        form = self._parameter_openapi_schema.model_dump(exclude_unset=True)
        _allow_what_is_set(form, kept.parameters)
        ours = {"entrypoint": self.entrypoint, "version": self.version, "path": None}
        if kept.work_pool_name is None and await has_pool(client, self._pool):
            ours["work_pool_name"] = self._pool
        found = {name: getattr(kept, name) for name in ours}
        if (found, kept.parameter_openapi_schema, kept.pull_steps or None) == (ours, form, None):
            return
        changes = {**ours, "pull_steps": None, "parameter_openapi_schema": form}
        began = now("UTC")
        try:
            await client.update_deployment(kept.id, DeploymentUpdate(**changes))
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise
            # The default parameters do not fit the new form, and no run could use them.
            changes["parameters"] = self.parameters
            await client.update_deployment(kept.id, DeploymentUpdate(**changes))
            get_logger(__name__).warning(
                "The default parameters of '%s' do not fit its new form and were replaced by the "
                "ones that it comes with. They were: %s",
                self.full_name,
                kept.parameters,
            )
        await _schedule_again(client, kept, began)


def _allow_what_is_set(form: dict[str, Any], parameters: dict[str, Any]) -> None:
    """Leave a person's default parameters among the choices, stored or not at this moment."""
    for name, choice in stored_choices(form["properties"]):
        value = parameters.get(name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and "enum" in choice and one not in choice["enum"]:
                choice["enum"] = [*choice["enum"], one]


async def _schedule_again(client: PrefectClient, kept: DeploymentResponse, since: datetime) -> None:
    """Make the runs to come of a deployment that has changed.

    The server deletes them at every change, and makes them again some seconds later, from that
    time on: what was due meanwhile would be lost.
    """
    if kept.paused or not any(one.active for one in kept.schedules):
        return
    await client.request(
        "POST",
        f"/deployments/{kept.id}/schedule",  # type: ignore[arg-type]  # Not among its own.
        json={"start_time": (since - MARGIN).isoformat()},
    )


def stored_choices(properties: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a form's schema whose choices follow the registry, each with its choice."""
    for name, field in properties.items():
        choice = field.get("items", field)
        if STORED in choice:
            yield name, choice


def is_of_spec(kept: DeploymentResponse) -> bool:
    """Whether a deployment was made of a spec file."""
    definitions = (kept.parameter_openapi_schema or {}).get("definitions") or {}
    return OF_SPEC.definitions.keys() <= definitions.keys()


async def deployments_of_specs(flows: list[str]) -> list[tuple[str, DeploymentResponse]]:
    """Each deployment that was made of a spec file, and the name of its flow.

    Args:
        flows: names of those that may be its flow.
    """
    found: list[DeploymentResponse] = []
    async with get_client() as client:
        ours = FlowFilter(name=FlowFilterName(any_=flows))
        while page := await client.read_deployments(
            flow_filter=ours, limit=PAGE, offset=len(found), sort=DeploymentSort.NAME_ASC
        ):
            found += page
        specs = [kept for kept in found if is_of_spec(kept)]
        names = {id: (await client.read_flow(id)).name for id in {kept.flow_id for kept in specs}}
    return [(names[kept.flow_id], kept) for kept in specs]


async def skip_missed_runs(names: list[str]) -> None:
    """Leave one run of each schedule of the deployments that was missed: the newest.

    Prefect makes runs ahead of time (three of a daily schedule, up to a hundred of others), and
    hands all that are due to whoever serves next. Runs of one schedule are equal, so that after
    some days off the first would do the work of all, and all would start at once.

    Args:
        names: "flow/deployment" of each; those that do not exist yet have missed nothing.
    """
    async with get_client() as client:
        for name in names:
            try:
                deployment = await client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            seen: set[UUID] = set()
            for run in await _due_runs(client, deployment.id):
                # A run that has started before waits for a retry: it was not missed.
                fresh = run.auto_scheduled and run.run_count == 0
                schedule = run.created_by.id if fresh and run.created_by else None
                if schedule in seen:
                    await client.set_flow_run_state(run.id, Cancelled(message=MISSED))
                if schedule is not None:
                    seen.add(schedule)


async def _due_runs(client: PrefectClient, deployment: UUID) -> list[FlowRun]:
    """Runs that should have started by now and have not, newest first."""
    return await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=now("UTC")),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=PAGE,
    )
