"""Have a module trained or measured as a run in the team's pool `gpu`, and wait for it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Cancelling
from pydantic_core import to_jsonable_python

from modkernel.errors import ChildError, ServiceError, StoppedError
from modkernel.flows.runtime import events
from modkernel.flows.runtime.cancels import SERVED
from modkernel.flows.runtime.interrupts import stoppable
from modkernel.flows.servers.work_pools import GPU, has_team
from modkernel.flows.team.needs import Needs, stated
from modkernel.flows.team.watch import states_of
from modkernel.jobs.client import ERRORS
from modkernel.lookup import trusted_names
from modkernel.registry import Settings

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


def to_send(settings: Settings, work: Callable[[], Work]) -> Work | None:
    """Work that goes to the team's machines: they are there, and it takes long enough.

    Args:
        settings: of this process.
        work: says what it is, where there is a team.

    Raises:
        ServiceError: all work is to go there, and there is no team.
    """
    context = FlowRunContext.get()
    if settings.spread == "never" or context is None or context.flow is None:
        return None
    if context.flow.name == FLOW:
        return None
    if there_is_a_team():
        asked = work()
        is_worth_it = settings.spread == "always" or asked.values >= WORTH_SENDING
        return asked if is_worth_it else None
    if settings.spread == "always":
        raise ServiceError(
            "Modules are to be trained on the team's machines, and the Prefect server has no work "
            "pools for them: run 'modkernel team init', or set MODKERNEL_SPREAD to 'auto'."
        )
    return None


def there_is_a_team() -> bool:
    """Whether the server in use has a team's pools; asked once a minute."""
    with _lock:
        if time.monotonic() > _team[0]:
            with get_client(sync_client=True) as client:
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
    with stoppable(stop), get_client(sync_client=True) as client:
        while True:
            run = _run_for(client, key, label, work)
            state = _Waiting(client, run, label, doing, stop).wait()
            if state is not None and not _was_asked_by_another(state):
                outcome(state, run.name)
                return state.message or ""


class _Waiting:
    """A wait for one run."""

    def __init__(
        self,
        client: SyncPrefectClient,
        run: FlowRun,
        label: str,
        doing: events.State,
        stop: threading.Event,
    ) -> None:
        self._client, self._run, self._label, self._doing = client, run, label, doing
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
            self._log.info("%s: %s on %s.", self._label, self._doing, _worker(self._fresh()))
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

    def _fresh(self) -> FlowRun:
        return self._client.read_flow_run(self._run.id)

    def _cancel_if_told(self) -> None:
        """Cancel the run if a person has ended this flow; one that only moves finds it again."""
        context = FlowRunContext.get()
        ours = context and context.flow_run and self._client.read_flow_run(context.flow_run.id)
        state = ours.state if ours else None
        if SERVED in os.environ and not (
            state is not None and (state.is_cancelling() or state.is_cancelled())
        ):
            return
        run = self._fresh()
        if run.state is None or run.state.is_final():
            return
        # What nobody has begun has nobody who would end it.
        kind = Cancelling if run.state.is_running() or run.state.is_pending() else Cancelled
        self._client.set_flow_run_state(run.id, kind(message=ASKED))


def _run_for(client: SyncPrefectClient, key: str, label: str, work: Work) -> FlowRun:
    """The run that is making it, or a new one."""
    try:
        deployment = client.read_deployment_by_name(f"{FLOW}/{FLOW}")
    except ObjectNotFound:
        raise ServiceError(
            f"The Prefect server has no deployment '{FLOW}/{FLOW}': run 'modkernel team "
            "init' again."
        ) from None
    tag = KEY_TAG + key[:40]
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=[tag]),
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]),
        )
    )
    for run in found:
        if run.state is not None and not run.state.is_final() and not run.state.is_cancelling():
            return run
    tags = [tag, *_inherited_tags()]
    needs = work.needs.changed(**stated(tags))
    return client.create_flow_run_from_deployment(
        deployment.id,
        name=label,
        parameters={
            "task": work.task,
            "arguments": to_jsonable_python(dict(work.arguments)),
            "needs": needs.model_dump(mode="json"),
            "trusted": list(trusted_names()),
        },
        tags=tags,
        # Two flows that ask at the same moment get the same run.
        idempotency_key=f"{key}:{len(found)}",
    )


def _inherited_tags() -> list[str]:
    """The tags of the flow that asks: what it is said to need its modules need."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    return [] if run is None else [tag for tag in run.tags if not tag.startswith(KEY_TAG)]


def _was_asked_by_another(state: State[Any]) -> bool:
    return (state.is_cancelled() or state.is_cancelling()) and state.message == ASKED


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


def _worker(run: FlowRun) -> str:
    return str((run.labels or {}).get("prefect.worker.name", "another machine"))
