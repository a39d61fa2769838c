"""Start a child on a job and follow its progress into the log, Prefect, MLflow and the terminal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from prefect.logging import get_run_logger

from flows.artifacts import ProgressArtifact
from flows.interrupts import stoppable
from flows.progress import emit
from flows.stores import fork_server
from modkernel.job import Job, UpstreamFiles
from modkernel.slots import gpus
from modkernel.training.report import TrainReport
from registry import ModuleRecord, Registry, Settings

LOG_SECONDS = 1.0
"""Epochs that end within this time are logged together: each log costs a transaction."""
MEASURES = ("objective", "validation", "learning_rate")
WAITING = {
    "device": "All devices are taken: waiting for one.",
    "folder": "A child that is about to end still works on this module: waiting for it.",
}


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


def run_followed(
    job: Job, name: str, registry: Registry, run_id: str, stop: threading.Event
) -> TrainReport:
    """Run a job to its end and return its report; see `ForkServer.run` for what is raised."""
    follower = _Follower(name, registry, run_id)
    with stoppable(stop):
        fork_server().run(job, follower, stop)
    report = TrainReport.model_validate_json((job.result / "report.json").read_bytes())
    epochs = len(report.history)
    # Those that were not followed, too: of a flow that was killed before it could log them.
    registry.log_epochs(run_id, [line.event(epochs) for line in report.history])
    return report


class _Follower:
    """Hands a child's events on."""

    def __init__(self, name: str, registry: Registry, run_id: str) -> None:
        self._name, self._registry, self._run_id = name, registry, run_id
        self._log = get_run_logger()
        self._bar = ProgressArtifact(name)
        self._lines: list[Mapping[str, Any]] = []
        self._logged = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "waiting":
                self._log.info(WAITING[event["for"]])
                emit({"event": "module", "module": self._name, "state": "waiting"})
            case "started":
                self._log.info("Training on %s in process %d.", event["device"], event["pid"])
                emit({"event": "module", "module": self._name, "state": "training"})
            case "epoch":
                self._epoch(event)
            case "note":
                self._log.warning("%s", event["text"])
                emit({"event": "note", "text": f"{self._name}: {event['text']}"})

    def _epoch(self, event: Mapping[str, Any]) -> None:
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
