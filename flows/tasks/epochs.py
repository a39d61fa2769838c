"""Follow a child that trains: its epochs into the log, Prefect, MLflow and the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefect.logging import get_run_logger

from modkernel.errors import StoreError
from modkernel.flows.display.artifacts import ProgressArtifact
from modkernel.flows.runtime.events import EpochDone, emit
from modkernel.flows.tasks.checkpoints import shared_checkpoints
from modkernel.flows.tasks.child_events import ChildEvent, EpochEnded
from modkernel.flows.tasks.once import RunChild
from modkernel.jobs.job import Job
from modkernel.registry import Registry
from modkernel.training.report import EpochLine, TrainReport

LOG_SECONDS = 1.0
"""Epochs that end within this time are logged together: each log costs a transaction."""


@contextmanager
def training(
    run: RunChild, job: Job, label: str, registry: Registry, run_id: str
) -> Iterator[TrainReport]:
    """Run a job that trains to its end and log every epoch of it; the block stores what it left.

    Its checkpoints are shared with other machines until the block has ended; see
    `shared_checkpoints`.

    Args:
        run: has a child do it; see `run_child` for what is raised.
        job: trains a module or a baseline.
        label: what it is called in progress.
        registry: logs the epochs.
        run_id: the MLflow run that they are logged on.
    """
    with shared_checkpoints(registry, run_id, job, label):
        run(job, _Epochs(label, registry, run_id))
        report = TrainReport.model_validate_json((job.result / "report.json").read_bytes())
        epochs = len(report.history)
        # Those that were not followed, too: of a flow that was killed before it could log them.
        registry.runs.log_epochs(run_id, [line.event(epochs) for line in report.history])
        yield report


class GroupEpochs:
    """Passes on the epochs of a child that trains several modules together."""

    def __init__(self, label: str, names: Sequence[str]) -> None:
        self._names, self._log, self._bar = names, get_run_logger(), ProgressArtifact(label)

    def __call__(self, event: ChildEvent) -> None:
        """Tell of an epoch, a module at a time."""
        if not isinstance(event, EpochEnded):
            return
        line, epochs = event.line, event.epochs
        for name, part in zip(self._names, line.parts, strict=True):
            emit(EpochDone(name, line.epoch, epochs, part.objective, part.validation))
            self._log.info(
                "%s: epoch %d of %d: objective %.4g, validation %.4g.",
                name,
                line.epoch,
                epochs,
                part.objective,
                part.validation,
            )
        self._bar.show(line.epoch, epochs)


class _Epochs:
    """Passes a child's epochs on."""

    def __init__(self, label: str, registry: Registry, run_id: str) -> None:
        self._label, self._registry, self._run_id = label, registry, run_id
        self._log = get_run_logger()
        self._bar = ProgressArtifact(label)
        self._lines: list[EpochLine] = []
        self._logged = time.monotonic()

    def __call__(self, event: ChildEvent) -> None:
        if not isinstance(event, EpochEnded):
            return
        line, epochs = event.line, event.epochs
        emit(EpochDone(self._label, line.epoch, epochs, line.objective, line.validation))
        self._log.info("Epoch %d of %d: %s.", line.epoch, epochs, _measures(line))
        self._bar.show(line.epoch, epochs)
        self._lines.append(line)
        if time.monotonic() - self._logged >= LOG_SECONDS:
            try:
                self._registry.runs.log_epochs(
                    self._run_id, [line.event(epochs) for line in self._lines]
                )
            except StoreError as error:  # All are logged at the end, once more.
                self._log.warning("Epochs are not in MLflow yet: %s", error)
            self._lines = []
            self._logged = time.monotonic()


def _measures(line: EpochLine) -> str:
    values = {
        "objective": line.objective,
        "validation": line.validation,
        "learning_rate": line.learning_rate,
    }
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
