"""Prefect's own worker, which takes only the runs that its device and its machine can do."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed
from prefect.types._datetime import now
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult
from pydantic import ValidationError

from modkernel.errors import SpecError
from modkernel.flows.servers.engine_server import engine_command
from modkernel.flows.servers.work_pools import Pool
from modkernel.flows.team.devices import DeviceFacts
from modkernel.flows.team.fit import Fit, device_lacks
from modkernel.flows.team.machines import machines, nobody_can
from modkernel.flows.team.needs import Needs, paths_in, stated

if TYPE_CHECKING:
    import anyio.abc

NEEDS = "needs"
"""The parameter of a module's run that states them."""
PATIENCE = timedelta(seconds=25)
"""So long a run is due before it is said that no machine can take it: all have looked by then."""
WAITING_FLOWS = 8
"""Flows in hand at once on a machine: they wait, and compute little."""


class _Configuration(ProcessJobConfiguration):
    """Runs are engines forked from a process that has all loaded, once it is ready."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """Fill in the command, unless a person has set another one."""
        self.command = self.command or engine_command()
        super().prepare_for_flow_run(*args, **kwargs)


class TeamWorker(ProcessWorker):
    """Takes runs of one pool that this machine can do, on one device, or none for flows."""

    job_configuration = _Configuration

    @classmethod
    def __dispatch_key__(cls) -> str | None:
        # Prefect's own worker keeps the type that the pools have, and which this one works for.
        return "modkernel"

    def __init__(
        self,
        pool: Pool,
        name: str,
        fit: Fit,
        device: DeviceFacts | None,
        environment: dict[str, str],
    ) -> None:
        super().__init__(
            pool,
            name=name,
            limit=WAITING_FLOWS if device is None else 1,
            create_pool_if_not_found=False,
        )
        self._pool, self._fit, self._device = pool, fit, device
        self._environment = environment
        self.running: set[int] = set()
        """Process ids of the runs in hand."""
        self.takes_runs = True
        """No longer, once it is to stop."""
        self._looks: set[asyncio.Task[list[FlowRun]]] = set()

    @property
    def in_hand(self) -> int:
        """Runs in hand, those among them whose process has not started yet."""
        return int(self.limiter.borrowed_tokens) if self.is_setup else 0

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """As Prefect's; a server that is away, or refuses, ends no run that is in hand."""
        try:
            return await super().get_and_submit_flow_runs()
        except Exception as error:
            self._logger.warning("No runs were asked for: %s", error)
            return []

    async def sync_with_backend(self) -> None:
        """As Prefect's; a server that is away, or refuses, ends no run that is in hand."""
        try:
            await super().sync_with_backend()
        except Exception as error:
            self._logger.warning("The server was not told of this worker: %s", error)

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        found = await super()._get_scheduled_flow_runs()
        # Looked at also while the device is taken: others may wait for what this machine says.
        fit = [one for one in found if await self._can_take(one.flow_run)]
        return fit if self.takes_runs and self.limiter.available_tokens else []

    async def _can_take(self, run: FlowRun) -> bool:
        try:
            return await self._judge(run)
        except Exception as error:  # A fault in one run must not end the others.
            self._logger.warning("'%s' is left alone: %s", run.name, error)
            return False

    async def _judge(self, run: FlowRun) -> bool:
        try:
            needs = needs_of(run)
        except SpecError as error:
            await self._fail(run, str(error))
            return False
        lack = await self._fit.judge(needs, self._device is not None)
        if lack is not None:
            return await self._refuse(run, needs, lack)
        fits_here = self._device is None or device_lacks(needs, self._device) is None
        return fits_here and self._fit.is_fit(needs)

    async def _refuse(self, run: FlowRun, needs: Needs, lack: str) -> bool:
        """Leave a run to other machines, and end it if none of them can take it either."""
        if run.next_scheduled_start_time is None or (
            now("UTC") - run.next_scheduled_start_time > PATIENCE
        ):
            told = nobody_can(await machines(), self._pool, needs.key)
            if told is not None:
                await self._fail(run, f"No machine can take this run: {told}.")
        self._logger.debug("'%s' is left to others: this machine %s.", run.name, lack)
        return False

    async def _fail(self, run: FlowRun, message: str) -> None:
        """End a run that nobody has begun; one that another machine has taken meanwhile goes on."""
        with suppress(ObjectNotFound):
            state = (await self.client.read_flow_run(run.id)).state
            if state is not None and state.is_scheduled():
                await self.client.set_flow_run_state(run.id, Failed(message=message))

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run a flow in a process of its own that sees this worker's device alone."""
        configuration.env = {**configuration.env, **self._environment}
        noted = _Noted(self.running, task_status)
        try:
            return await super().run(flow_run, configuration, noted)
        finally:
            noted.forget()
            self._look_at_once()

    def _look_at_once(self) -> None:
        """Look for the next run as soon as one has ended: no device waits for the next look."""
        look = asyncio.create_task(self.get_and_submit_flow_runs())
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)


class _Noted:
    """Passes on that a process has started, and remembers which."""

    def __init__(self, running: set[int], status: Any) -> None:
        self._running, self._status = running, status
        self._pid: int | None = None

    def started(self, value: Any = None) -> None:
        self._pid = value
        self._running.add(value)
        if self._status is not None:
            self._status.started(value)

    def forget(self) -> None:
        if self._pid is not None:
            self._running.discard(self._pid)


def needs_of(run: FlowRun) -> Needs:
    """What a run needs: a module's run states it; of a flow it is its version and its files.

    Raises:
        SpecError: a tag that is to state a need states none.
    """
    given = (run.parameters or {}).get(NEEDS)
    if isinstance(given, dict):
        try:
            return Needs.model_validate(given)
        except ValidationError:  # Another version asks for what this one does not know.
            return Needs(version=str(given.get("version", "another version")))
    stated(run.tags)
    fields = {} if run.deployment_version is None else {"version": run.deployment_version}
    return Needs(files=tuple(dict.fromkeys(paths_in(run.parameters))), **fields)
