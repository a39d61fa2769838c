"""Registering deployments so that what people set in Prefect stays, whatever starts or restarts."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_logger
from prefect.states import Cancelled
from prefect.types._datetime import now

PAGE = 200
"""Runs that the server lists at once, at most."""
MISSED = "Not started in time. A later run of the same schedule makes up for it."


class KeptDeployment(RunnerDeployment):
    """A deployment that is made once; after that only what the code decides is brought up to date.

    That is where the code is found, its version, and the form of its parameters. Schedules, pause,
    concurrency limit, tags, description, default parameters, job variables and the work pool are
    given when the deployment is made and never touched again: they belong to people then.

    Prefect's own deployment writes all of it at every start. This overrides its two public
    methods, so that `serve` and `Runner` need no change.
    """

    async def aapply(self, *args: Any, **kwargs: Any) -> UUID:
        """Make the deployment, or bring it up to date; its id.

        Args:
            args: of the method that this overrides; they only say how to make it.
            kwargs: likewise.
        """
        async with get_client() as client:
            try:
                kept = await client.read_deployment_by_name(self.full_name)
            except ObjectNotFound:
                return await super().aapply(*args, **kwargs)
            await self._bring_up_to_date(client, kept)
            return kept.id

    def apply(self, *args: Any, **kwargs: Any) -> UUID:
        """`aapply`, outside of an event loop."""
        return asyncio.run(self.aapply(*args, **kwargs))

    async def _bring_up_to_date(self, client: PrefectClient, kept: DeploymentResponse) -> None:
        # The form has no public name; a test holds that it is there.
        form = self._parameter_openapi_schema.model_dump(exclude_unset=True)
        ours = {"entrypoint": self.entrypoint, "version": self.version, "path": None}
        found = {name: getattr(kept, name) for name in ours}
        if (found, kept.parameter_openapi_schema, kept.pull_steps or None) == (ours, form, None):
            return
        changes = {**ours, "pull_steps": None, "parameter_openapi_schema": form}
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
