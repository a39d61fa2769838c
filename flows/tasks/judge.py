"""The task that judges one stored module for all of a study's tasks, or finds it judged already."""

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
from modkernel.jobs.job import JudgeJob
from modkernel.registry import Registry, Settings
from modkernel.reuse.ground_truth import JUDGMENT_FILE, Judgment, JudgmentSpec, read_judgment
from modkernel.reuse.scores import SCORES
from modkernel.spec import DatasetSpec
from modkernel.system.files import replace_file


def judgment_path(settings: Settings, spec: JudgmentSpec) -> Path:
    """Where the judgment that a spec asks for is kept, for all studies of this home."""
    return settings.home / "judgments" / f"{spec.digest()}.json"


def find_judgment(settings: Settings, spec: JudgmentSpec) -> Judgment | None:
    """The judgment that was made before, if there is one with all scores that there are now."""
    path = judgment_path(settings, spec)
    if not path.exists():
        return None
    judgment = read_judgment(path)
    wanted = {name for name, score in SCORES.items() if score.needs not in ON_MOMENTS}
    return judgment if wanted <= judgment.scores.keys() | judgment.undefined.keys() else None


@runs_child("judge {name}")
def judge_stored_module(
    name: str, spec: JudgmentSpec, dataset: DatasetSpec
) -> tuple[bool, Judgment]:
    """Have a stored module judged by the accuracies of fresh output modules.

    Args:
        name: what its progress is shown under.
        spec: which module, for which tasks.
        dataset: the data of all tasks' classes.

    Returns:
        Whether the judgment was there already, and the judgment.

    Raises:
        ChildError: the child failed, or died twice.
        ModkernelError: what ended judging.
    """
    registry = open_registry()
    judgment, judged = find_or_make(
        registry,
        spec.digest(),
        name,
        lambda: find_judgment(registry.settings, spec),
        lambda lost: _judge(registry, name, spec, dataset, lost),
    )
    tell(name, "judged")
    return not judged, judgment


def _judge(
    registry: Registry, name: str, spec: JudgmentSpec, dataset: DatasetSpec, lost: threading.Event
) -> Judgment:
    tell(name, "judging")
    job = make_job(
        JudgeJob,
        registry.settings,
        spec.digest(),
        judgment=spec,
        fingerprint=spec.fingerprint,
        dataset=dataset,
        upstream=chain_files(registry, registry.modules.resolve(spec.module_id)),
    )
    log = get_run_logger()

    def follow(event: Mapping[str, Any]) -> None:
        """A target that is done counts as an epoch."""
        if event["event"] == "target":
            done, targets = event["target"], event["targets"]
            log.info("Task %d of %d is judged.", done, targets)
            emit({"event": "epoch", "module": name, "epoch": done, "epochs": targets})

    run_watched(job, name, "judging", lost, follow)
    judgment = read_judgment(job.result / JUDGMENT_FILE)
    _keep(judgment_path(registry.settings, spec), judgment)
    return judgment


def _keep(path: Path, judgment: Judgment) -> None:
    """Write a judgment so that its file appears complete or not at all."""
    try:
        replace_file(path, (judgment.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise SettingsError(
            f"Cannot keep a judgment in {path.parent}: {error.strerror}. Make room there, or set "
            "MODKERNEL_HOME to a folder that you can write to."
        ) from None
