"""The task that finds the ground truth of one stored module, or finds it stored already."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from modkernel.errors import SettingsError
from modkernel.flows.runtime.events import emit, tell
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.study.scoring import ON_MOMENTS
from modkernel.flows.tasks.child import chain_files, make_job, run_watched, runs_child
from modkernel.flows.tasks.claims import find_or_make
from modkernel.registry import Registry, Settings
from modkernel.reuse.ground_truth import (
    GROUND_TRUTH_FILE,
    GroundTruth,
    GroundTruthSpec,
    read_ground_truth,
)
from modkernel.reuse.scores import SCORES
from modkernel.spec import DatasetSpec
from modkernel.system.files import replace_file


def ground_truth_path(settings: Settings, spec: GroundTruthSpec) -> Path:
    """Where the ground truth that a spec asks for is stored, for all studies of this home."""
    return settings.home / "ground_truth" / f"{spec.digest()}.json"


def find_ground_truth(settings: Settings, spec: GroundTruthSpec) -> GroundTruth | None:
    """The ground truth that was found before, if it has all scores that there are now."""
    path = ground_truth_path(settings, spec)
    if not path.exists():
        return None
    truth = read_ground_truth(path)
    wanted = {name for name, score in SCORES.items() if score.needs not in ON_MOMENTS}
    return truth if wanted <= truth.scores.keys() | truth.undefined.keys() else None


@runs_child("ground truth {name}")
def measure_stored_ground_truth(
    name: str, spec: GroundTruthSpec, dataset: DatasetSpec
) -> tuple[bool, GroundTruth]:
    """Find a stored module's ground truth: the accuracies of fresh output modules on it.

    Args:
        name: what its progress is shown under.
        spec: which module, for which tasks.
        dataset: the data of all tasks' classes.

    Returns:
        Whether the ground truth was stored already, and the ground truth.

    Raises:
        ChildError: the child failed, or died twice.
        ModkernelError: what ended the evaluation.
    """
    registry = open_registry()
    truth, evaluated = find_or_make(
        registry,
        spec.digest(),
        name,
        lambda: find_ground_truth(registry.settings, spec),
        lambda lost: _measure(registry, name, spec, dataset, lost),
    )
    tell(name, "evaluated")
    return not evaluated, truth


def _measure(
    registry: Registry,
    name: str,
    spec: GroundTruthSpec,
    dataset: DatasetSpec,
    lost: threading.Event,
) -> GroundTruth:
    tell(name, "evaluating")
    job = make_job(
        registry.settings,
        spec.digest(),
        kind="ground_truth",
        ground_truth=spec,
        fingerprint=spec.fingerprint,
        dataset=dataset,
        upstream=chain_files(registry, registry.resolve(spec.module_id)),
    )
    log = get_run_logger()

    def follow(event: Mapping[str, Any]) -> None:
        """A target that is done counts as an epoch."""
        if event["event"] == "target":
            done, targets = event["target"], event["targets"]
            log.info("Task %d of %d is evaluated.", done, targets)
            emit({"event": "epoch", "module": name, "epoch": done, "epochs": targets})

    run_watched(job, name, "evaluating", lost, follow)
    truth = read_ground_truth(job.result / GROUND_TRUTH_FILE)
    _keep(ground_truth_path(registry.settings, spec), truth)
    return truth


def _keep(path: Path, truth: GroundTruth) -> None:
    """Write a ground truth so that its file appears complete or not at all."""
    try:
        replace_file(path, (truth.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise SettingsError(
            f"Cannot store the truth in {path.parent}: {error.strerror}. Make room there, or set "
            "MODKERNEL_HOME to a folder that you can write to."
        ) from None
