"""Start a child on a job and follow its progress into the log, Prefect, MLflow and the terminal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.tasks import Task

from modkernel.errors import ChildError
from modkernel.flows.display.artifacts import ProgressArtifact
from modkernel.flows.runtime.events import emit, tell
from modkernel.flows.runtime.interrupts import stoppable
from modkernel.flows.runtime.shared import fork_server
from modkernel.jobs.job import Job, UpstreamFiles
from modkernel.jobs.slots import gpus
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.training.report import TrainReport

P = ParamSpec("P")
R = TypeVar("R")

LOG_SECONDS = 1.0
"""Epochs that end within this time are logged together: each log costs a transaction."""
MEASURES = ("objective", "validation", "learning_rate")
WAITING = {
    "device": "All devices are taken: waiting for one.",
    "folder": "A child that is about to end still works on this module: waiting for it.",
}


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


def _child_died(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: only after a child that was killed, which goes on where it was."""
    try:
        state.result()
    except ChildError as error:
        return error.died
    except Exception:
        return False
    return False


def make_job(settings: Settings, digest: str, **fields: Any) -> Job:
    """A job in the work folder that belongs to a recipe: whoever comes next goes on there."""
    cores = len(os.sched_getaffinity(0))
    return Job(
        data_root=str(settings.data_root),
        cache=str(settings.cache_dir),
        device=settings.device,
        threads=max(1, cores // settings.cpu_slots),
        work=str(settings.work_dir / digest),
        slots=str(settings.slots_dir),
        cpu_slots=settings.cpu_slots,
        resident_limit=settings.resident_limit,
        features=str(settings.features_dir),
        feature_limit=settings.feature_cache_bytes,
        **fields,
    )


def chain_files(registry: Registry, top: ModuleRecord) -> tuple[UpstreamFiles, ...]:
    """Where a module and all that it stands on lie, first to last, fetched and verified."""
    return tuple(
        UpstreamFiles(
            folder=str(stored.folder),
            weights_sha256=stored.weights_sha256,
            spec_sha256=stored.spec_sha256,
        )
        for stored in map(registry.fetch, registry.chain(top))
    )


def device_slots(settings: Settings) -> int:
    """How many children compute at once on this machine."""
    devices = 0 if settings.device == "cpu" else len(gpus())
    return devices or settings.cpu_slots


def run_watched(
    job: Job,
    name: str,
    doing: str,
    stop: threading.Event,
    follow: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Run a job to its end; see `ForkServer.run` for what is raised.

    Args:
        job: what a child does.
        name: what it is called in progress.
        doing: its state while it is at work: 'training', 'measuring' or 'evaluating'.
        stop: ends it when it is set.
        follow: is given the child's events, but for those that every job has.
    """
    log = get_run_logger()

    def watch(event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "waiting":
                log.info(WAITING[event["for"]])
                tell(name, "waiting")
            case "started":
                begun = doing.capitalize()
                log.info("%s on %s in process %d.", begun, event["device"], event["pid"])
                tell(name, doing)
            case "note":
                log.warning("%s", event["text"])
                emit({"event": "note", "text": f"{name}: {event['text']}"})
            case _ if follow is not None:
                follow(event)

    with stoppable(stop):
        fork_server().run(job, watch, stop)


def run_followed(
    job: Job, name: str, registry: Registry, run_id: str, stop: threading.Event
) -> TrainReport:
    """Run a job to its end and return its report; see `ForkServer.run` for what is raised."""
    run_watched(job, name, "training", stop, _Epochs(name, registry, run_id))
    report = TrainReport.model_validate_json((job.result / "report.json").read_bytes())
    epochs = len(report.history)
    # Those that were not followed, too: of a flow that was killed before it could log them.
    registry.log_epochs(run_id, [line.event(epochs) for line in report.history])
    return report


class _Epochs:
    """Hands a child's epochs on."""

    def __init__(self, name: str, registry: Registry, run_id: str) -> None:
        self._name, self._registry, self._run_id = name, registry, run_id
        self._log = get_run_logger()
        self._bar = ProgressArtifact(name)
        self._lines: list[Mapping[str, Any]] = []
        self._logged = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] != "epoch":
            return
        epoch, epochs = event["epoch"], event["epochs"]
        emit({**event, "module": self._name})
        values = ", ".join(f"{key} {event[key]:.4g}" for key in MEASURES if event[key] is not None)
        self._log.info("Epoch %d of %d: %s.", epoch, epochs, values)
        self._bar.show(epoch, epochs)
        self._lines.append(event)
        if time.monotonic() - self._logged >= LOG_SECONDS:
            self._registry.log_epochs(self._run_id, self._lines)
            self._lines = []
            self._logged = time.monotonic()
