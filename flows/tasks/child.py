"""Start a child on a job, and follow what every job reports into the log and the terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import objects
from prefect.logging import get_run_logger
from prefect.tasks import Task

from modkernel.errors import ChildError, StoppedError
from modkernel.flows.runtime.events import Note, State, emit, tell
from modkernel.flows.runtime.interrupts import stoppable
from modkernel.flows.runtime.shared import fork_server
from modkernel.flows.tasks.child_events import (
    ChildEvent,
    EpochEnded,
    Remark,
    Started,
    TargetJudged,
    Waiting,
    parse,
)
from modkernel.flows.team.dispatch import there_is_a_team
from modkernel.jobs.job import (
    EndToEndJob,
    GroundTruthJob,
    HiddenJob,
    Job,
    MeasureJob,
    OutputJob,
    StitchJob,
    TogetherJob,
    UpstreamFiles,
)
from modkernel.jobs.slots import gpus
from modkernel.lookup import trusted_names
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.system.limits import usable_cores

P = ParamSpec("P")
R = TypeVar("R")
J = TypeVar(
    "J", HiddenJob, TogetherJob, StitchJob, OutputJob, EndToEndJob, MeasureJob, GroundTruthJob
)

Follow = Callable[[ChildEvent], None]

IN_HAND = 2
"""Tasks for each device of this machine: while one stores its module, the next one computes."""
IN_A_TEAM = 32
"""Tasks that wait for the team's machines: a thread each, and one request for all together."""
WAITING = {
    "device": "All devices are taken: waiting for one.",
    "folder": "A child that is about to end still works on this module: waiting for it.",
}
"""What the log says of a child that lacks something."""


def runs_child(run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a task that has a child at work, and may be tried once more if it dies.

    Args:
        run_name: of the task's runs; a template over the function's arguments.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return Task(
            function,
            task_run_name=run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=1,
            retry_delay_seconds=1,
            retry_condition_fn=_child_died,
        )

    return decorate


def _child_died(_: Task[..., Any], __: objects.TaskRun, state: objects.State[Any]) -> bool:
    """Whether to try again: only after a child that was killed: the next one resumes its work."""
    try:
        state.result()
    except ChildError as error:
        return error.died
    except Exception:
        return False
    return False


def make_job(kind: type[J], settings: Settings, digest: str, **fields: Any) -> J:
    """A job in the work folder of a recipe, where whoever comes next resumes it."""
    cores = usable_cores()
    return kind(
        data_root=str(settings.data_root),
        cache=str(settings.cache_dir),
        data_paths={name: str(path) for name, path in settings.data_paths},
        device=settings.device,
        threads=max(1, cores // settings.cpu_slots),
        work=str(settings.work_dir / digest),
        slots=str(settings.slots_dir),
        cpu_slots=settings.cpu_slots,
        resident_limit=settings.resident_limit,
        features=str(settings.features_dir),
        feature_limit=settings.feature_cache_bytes,
        trusted=trusted_names(),
        **fields,
    )


def chain_files(registry: Registry, chain: Iterable[ModuleRecord]) -> tuple[UpstreamFiles, ...]:
    """Where modules lie, in their order, fetched and verified."""
    return tuple(
        UpstreamFiles(
            folder=str(stored.folder),
            weights_sha256=stored.weights_sha256,
            spec_sha256=stored.spec_sha256,
        )
        for stored in map(registry.modules.fetch, chain)
    )


def tasks_in_hand(settings: Settings) -> int:
    """How many tasks a flow has in hand at once: enough that no device waits for the next."""
    alone = settings.spread == "never" or settings.devices_per_module > 1
    if not alone and there_is_a_team():
        return IN_A_TEAM
    devices = 0 if settings.device == "cpu" else len(gpus())
    at_once = (devices or settings.cpu_slots) // settings.devices_per_module
    return IN_HAND * max(1, at_once)


def run_child(
    label: str, doing: State, stop: threading.Event, job: Job, follow: Follow | None = None
) -> None:
    """Run a job to its end; see `ForkServer.run` for what is raised.

    StoppedError is raised also where the job is done and it was stopped: nothing is stored then.

    Args:
        label: what it is called in progress.
        doing: its state while it is at work.
        stop: ends it when it is set.
        job: what a child does.
        follow: is given what the child reports, but for what every job reports.
    """
    log = get_run_logger()

    def watch(reported: Mapping[str, Any]) -> None:
        match parse(reported):
            case Waiting(lacks):
                log.info(WAITING[lacks])
                tell(label, "waiting")
            case Started(device, pid):
                log.info("%s on %s in process %d.", doing.capitalize(), device, pid)
                tell(label, doing)
            case Remark(text):
                log.warning("%s", text)
                emit(Note(f"{label}: {text}"))
            case EpochEnded() | TargetJudged() as event if follow is not None:
                follow(event)

    with stoppable(stop):
        fork_server().run(job, watch, stop)
    if stop.is_set():  # It had ended before it could be told.
        raise StoppedError("Interrupted before its result was stored: the same command does that.")
