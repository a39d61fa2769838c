"""What flows return: small, JSON-clean, the same in a terminal, in Prefect and in a program."""

from __future__ import annotations

from typing import Literal

from modkernel.flows.runtime.events import Note, emit
from modkernel.registry import ModuleRecord
from modkernel.spec import Spec
from modkernel.training.report import OutputEvaluation, StitchFigures, TrainReport

__all__ = ["BaselineResult", "ModuleResult", "NetworkResult", "StitchResult", "tell_kept_name"]


class ModuleResult(Spec):
    """One module of a flow, trained by it or reused."""

    id: str
    name: str
    version: int | None
    """Of the registered model in MLflow."""
    kind: Literal["hidden", "imported", "stitch", "output"]
    reused: bool
    """Whether it was there already and nothing was trained."""
    seconds: float
    """Spent training it, whenever that was."""
    objective: float | None
    """Value on the validation part at the epoch whose weights were stored."""
    peak_memory_bytes: int | None
    """Of its training process."""
    run_id: str | None
    """MLflow run."""
    labels_told: str | None = None
    """Of an output module: how many labels it was trained on, and what those below it saw."""

    @classmethod
    def of(cls, record: ModuleRecord, report: TrainReport, reused: bool) -> ModuleResult:
        """The result that a stored module gives."""
        best = (line for line in report.history if line.epoch == report.best_epoch)
        line = next(best, None)
        return cls(
            id=record.id,
            name=record.name,
            version=record.version,
            kind=record.kind,
            reused=reused,
            seconds=report.seconds,
            objective=None if line is None else line.validation,
            peak_memory_bytes=report.peak_memory_bytes,
            run_id=record.run_id,
            labels_told=report.labels_told,
        )


class StitchResult(ModuleResult):
    """A stitch, made or found."""

    stitch: StitchFigures | None
    """What it is worth."""


class NetworkResult(Spec):
    """A network that a flow has trained or composed."""

    id: str
    name: str
    modules: tuple[ModuleResult, ...]
    """First hidden module first, those of a stored chain included."""
    evaluation: OutputEvaluation | None
    trained_modules: int
    reused_modules: int
    seconds: float
    """Of the whole flow."""
    run_id: str | None
    """MLflow run of the network."""


class BaselineResult(Spec):
    """A network trained end to end, for comparison."""

    name: str
    reused: bool
    evaluation: OutputEvaluation
    train_seconds: float
    peak_memory_bytes: int | None
    seconds: float
    """Of the whole flow."""
    run_id: str


def tell_kept_name(made: ModuleResult, name: str) -> None:
    """Say so where a module was stored before, under another name than was asked for now."""
    if made.name != name:
        stored = f"{made.name}/{made.version}"
        emit(Note(f"It was stored before, as {stored}: the name '{name}' was not used."))
