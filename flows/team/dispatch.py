"""Have a module trained or measured as a run in the team's pool `gpu`, and wait for it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Cancelling
from prefect.types._datetime import now
from pydantic_core import to_jsonable_python

from modkernel.errors import ChildError, ServiceError, SettingsError, StoppedError
from modkernel.flows.runtime import events
from modkernel.flows.runtime.cancels import SERVED
from modkernel.flows.runtime.interrupts import stoppable
from modkernel.flows.servers.work_pools import GPU, has_team
from modkernel.flows.team.needs import TAG as NEEDS_TAG
from modkernel.flows.team.needs import Needs, stated
from modkernel.flows.team.watch import states_of
from modkernel.jobs.failures import ERRORS
from modkernel.lookup import trusted_names
from modkernel.registry import Settings

T = TypeVar("T")

FLOW = "module-work"
"""The flow whose runs these are, and its deployment."""
WORTH_SENDING = 100_000_000
"""Values of examples that are read. What reads fewer takes less than the 10 s that a run costs."""
KEY_TAG = "makes:"
"""How the tag of a run begins that says what it makes; a flow that starts again finds it so."""
LOOK_SECONDS = 3.0
TEAM_SECONDS = 60.0
TOLD_SECONDS = 30.0
"""A run that waits so long for a machine is told of."""
CRASHED_SECONDS = 60.0
"""A run that stays Crashed so long is not started again by itself."""
UNWANTED = "unwanted"
"""Tag of a run whose flow was cancelled: another that waits for the same starts it anew."""
AWAY_SECONDS = 180.0
ASKED = "The flow that asked for it was cancelled."
FAILED = re.compile(r"(\w+Error): (.*)", re.DOTALL)
"""The message of a run that failed: the error's class, and what it says."""
_lock = threading.Lock()
_team: list[float] = [0.0, False]
"""Until when it is known whether there is a team, and whether there is one."""


@dataclass(frozen=True)
class Work:
    """What another machine may do in place of this process.

    Attributes:
        task: name in `flows.module_work.TASKS`.
        arguments: of the task.
        needs: of the machine.
        values: of examples that are read, in all.
    """

    task: str
    arguments: Mapping[str, Any]
    needs: Needs
    values: int


def sends_work(settings: Settings) -> bool:
    """Whether work of this flow may go to a team's machines: there is a team, and it is wanted.

    A worker has one device: a flow whose modules are trained on several does all of its work where
    it runs.

    Raises:
        ServiceError: all work is to go there, and there is no team.
        SettingsError: all work is to go there, and modules are to be trained on several devices.
    """
    context = FlowRunContext.get()
    if settings.spread == "never" or context is None or context.flow is None:
        return False
    if context.flow.name == FLOW:
        return False
    if settings.devices_per_module > 1:
        if settings.spread == "always":
            raise SettingsError(
                f"A worker has one device, and modules are to be trained on "
                f"{settings.devices_per_module}: set devices_per_module to 1 or MODKERNEL_SPREAD "
                "to 'auto'."
            )
        return False
    if not there_is_a_team() and settings.spread == "always":
        raise ServiceError(
            "Modules are to be trained on the team's machines, and the Prefect server has no work "
            "pools for them: run 'modkernel team init', or set MODKERNEL_SPREAD to 'auto'."
        )
    return there_is_a_team()


def is_worth_it(settings: Settings, work: Work) -> bool:
    """Whether work takes longer than a run costs, or needs what a tag states."""
    if settings.spread == "always" or work.values >= WORTH_SENDING:
        return True
    return bool(stated(_inherited_tags()))


def there_is_a_team() -> bool:
    """Whether the server in use has a team's pools; asked once a minute, and if it answers."""
    with _lock:
        if time.monotonic() > _team[0]:
            with suppress(httpx.HTTPError, PrefectHTTPStatusError), _client() as client:
                _team[:] = time.monotonic() + TEAM_SECONDS, has_team(client)
        return bool(_team[1])


def forget_team() -> None:
    """Ask the server again whether it has a team."""
    with _lock:
        _team[:] = 0.0, False


def send(key: str, label: str, doing: events.State, work: Work) -> str:
    """Have work done as a run in the pool, and wait until it is; a run in hand is waited for.

    Args:
        key: of what is made.
        label: what it is called in progress.
        doing: its state while a machine is at work.
        work: what is done.

    Returns:
        What the run says at its end.

    Raises:
        ModkernelError: what ended the run, with the machine's name.
        StoppedError: this flow, or the run, was cancelled or interrupted.
    """
    stop = threading.Event()
    with stoppable(stop):
        while True:
            run = _answered(partial(_run_for, key, label, work), stop)
            state = _Waiting(run, label, doing, stop).wait()
            if state is None:
                continue  # Somebody has deleted it.
            if state.is_cancelled() and UNWANTED in _answered(partial(_fresh, run.id), stop).tags:
                continue  # Another flow had asked for it, and was cancelled; this one was not.
            outcome(state, run.name)
            return state.message or ""


def _answered(ask: Callable[[], T], stop: threading.Event) -> T:
    """What a server answers that may be away for a moment.

    Raises:
        StoppedError: this flow was stopped.
        httpx.HTTPError, PrefectHTTPStatusError: it has not answered for `AWAY_SECONDS`.
    """
    deadline = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return ask()
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            refused = isinstance(error, PrefectHTTPStatusError) and error.response.is_client_error
            if refused or time.monotonic() > deadline:
                raise
        if stop.wait(LOOK_SECONDS):
            raise StoppedError("Waiting for the Prefect server was interrupted: run it again.")


def _client() -> SyncPrefectClient:
    return get_client(sync_client=True)


def _fresh(id: UUID) -> FlowRun:
    with _client() as client:
        return client.read_flow_run(id)


class _Waiting:
    """A wait for one run."""

    def __init__(
        self,
        run: FlowRun,
        label: str,
        doing: events.State,
        stop: threading.Event,
    ) -> None:
        self._run, self._label, self._doing = run, label, doing
        self._stop, self._log = stop, get_run_logger()
        self._told = ""

    def wait(self) -> State[Any] | None:
        """The state in which the run has ended; None if it is gone.

        Raises:
            StoppedError: this flow was stopped.
        """
        self._log.info("%s: run '%s' in pool '%s'.", self._label, self._run.name, GPU)
        waited = crashed = 0.0
        while True:
            if self._stop.wait(LOOK_SECONDS):
                self._cancel_if_told()
                raise StoppedError(
                    f"{self._label}: the wait for another machine was interrupted: run it again."
                )
            found = states_of(self._run.id)
            if found is None:
                continue  # The server is away for a moment.
            state = found.get(self._run.id)
            if state is None:
                return None
            if state.is_crashed():
                crashed += LOOK_SECONDS
                if crashed < CRASHED_SECONDS:
                    continue
            else:
                crashed = 0.0
            if state.type in TERMINAL_STATES:
                return state
            waited += LOOK_SECONDS
            self._tell(state, waited)

    def _tell(self, state: State[Any], waited: float) -> None:
        if state.is_running() and self._told != "running":
            self._told = "running"
            self._log.info("%s: %s on %s.", self._label, self._doing, self._worker())
            events.tell(self._label, self._doing)
        elif not state.is_running() and self._told in ("", "running"):
            self._told = "waiting"
            events.tell(self._label, "waiting")
        elif self._told == "waiting" and waited >= TOLD_SECONDS and state.is_scheduled():
            self._told = "long"
            text = (
                f"{self._label} waits for a machine: all that could take it are busy, or none "
                f"serves the pool '{GPU}' ('modkernel worker' does)."
            )
            self._log.info(text)
            events.emit(events.Note(text))

    def _worker(self) -> str:
        with suppress(httpx.HTTPError, PrefectHTTPStatusError):
            labels = _fresh(self._run.id).labels or {}
            return str(labels.get("prefect.worker.name", "another machine"))
        return "another machine"

    def _cancel_if_told(self) -> None:
        """Cancel the run if a person has ended this flow; one that only moves finds it again."""
        context = FlowRunContext.get()
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), _client() as client:
            flow = context.flow_run if context else None
            state = client.read_flow_run(flow.id).state if flow else None
            told = state is not None and (state.is_cancelling() or state.is_cancelled())
            run = client.read_flow_run(self._run.id)
            if (SERVED in os.environ and not told) or run.state is None or run.state.is_final():
                return
            client.update_flow_run(run.id, tags={*run.tags, UNWANTED})
            # What nobody has begun has nobody who would end it.
            kind = Cancelled if run.state.is_scheduled() else Cancelling
            client.set_flow_run_state(run.id, kind(message=ASKED))


def _run_for(key: str, label: str, work: Work) -> FlowRun:
    """The run that is making it, or a new one."""
    tags = _inherited_tags()
    needs = work.needs.changed(**stated(tags))
    # What another flow asks for on a larger device is another run; the claim has it made once.
    mark = KEY_TAG + key[:32] + "".join(sorted(tag for tag in tags if tag.startswith(NEEDS_TAG)))
    with _client() as client:
        try:
            deployment = client.read_deployment_by_name(f"{FLOW}/{FLOW}")
        except ObjectNotFound:
            raise ServiceError(
                f"The Prefect server has no deployment '{FLOW}/{FLOW}': run 'modkernel team init' "
                "again."
            ) from None
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[mark]),
                deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
            ),
            sort=FlowRunSort.ID_DESC,
        )
        for run in found:
            if _is_in_hand(run):
                return run
        parameters = {
            "task": work.task,
            "arguments": to_jsonable_python(dict(work.arguments)),
            "needs": needs.model_dump(mode="json"),
            "trusted": list(trusted_names()),
        }

        def create(after: object) -> FlowRun:
            return client.create_flow_run_from_deployment(
                deployment.id,
                name=label,
                parameters=parameters,
                tags=[mark, *tags],
                idempotency_key=f"{mark}:{after}",
            )

        # Two flows that ask at the same moment get the same run.
        run = create(found[0].id if found else None)
        over = run.state is not None and run.state.is_final()
        return create(uuid4()) if over else run  # Of a run or a deployment that was deleted.


def _is_in_hand(run: FlowRun) -> bool:
    """Whether a run is at work or to come, as one is that has just crashed."""
    if run.state is None or run.state.is_cancelling() or UNWANTED in run.tags:
        return False
    if run.state.is_crashed():
        return (now("UTC") - run.state.timestamp).total_seconds() < CRASHED_SECONDS
    return not run.state.is_final()


def _inherited_tags() -> list[str]:
    """The tags of the flow that asks: what it is said to need its modules need."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return [] if run is None else [tag for tag in run.tags if not tag.startswith(KEY_TAG)]


def outcome(state: State[Any], name: str) -> None:
    """Raise what ended a run that did not complete.

    Args:
        state: in which it has ended.
        name: of the run.

    Raises:
        ModkernelError: of the type that the other machine's was.
    """
    message = state.message or ""
    if state.is_completed():
        return
    if state.is_cancelled():
        raise StoppedError(f"Run '{name}' was cancelled in Prefect: the same command resumes.")
    if state.is_crashed():
        died = ChildError(f"Run '{name}' died, and was not started again: {message}")
        died.died = True
        raise died
    match = FAILED.search(message)
    kind = ERRORS.get(match[1]) if match else None
    if match and kind is not None:
        raise kind(match[2])
    raise ChildError(f"Run '{name}' failed: {message}")
