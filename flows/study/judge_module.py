"""The task that judges one stored module for all of a study's tasks, or finds it judged already."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows.child_task import child_died
from flows.interrupts import stoppable
from flows.jobs import WAITING, chain_files, make_job
from flows.leases import claim_unless, kept
from flows.progress import emit
from flows.stores import fork_server, open_registry
from flows.study.scoring import ON_MOMENTS
from modkernel.errors import SettingsError
from modkernel.judgment import JUDGMENT_FILE, Judgment, JudgmentSpec, read_judgment
from modkernel.scores import SCORES
from modkernel.spec import DatasetSpec
from registry import Claim, Registry, Settings


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


@task(
    task_run_name="judge {name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=1,
    retry_condition_fn=child_died,
)
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
    found = claim_unless(
        registry,
        spec.digest(),
        lambda: find_judgment(registry.settings, spec),
        lambda: _tell(name, "waiting"),
    )
    if not isinstance(found, Claim):
        _tell(name, "judged")
        return True, found
    try:
        with kept(found) as lost:
            judgment = _judge(registry, name, spec, dataset, lost)
    except BaseException:
        _tell(name, "failed")
        raise
    _tell(name, "judged")
    return False, judgment


def _judge(
    registry: Registry, name: str, spec: JudgmentSpec, dataset: DatasetSpec, lost: threading.Event
) -> Judgment:
    _tell(name, "judging")
    job = make_job(
        registry.settings,
        spec.digest(),
        kind="judge",
        judgment=spec,
        fingerprint=spec.fingerprint,
        dataset=dataset,
        upstream=chain_files(registry, registry.resolve(spec.module_id)),
    )
    with stoppable(lost):
        fork_server().run(job, _Follower(name), lost)
    judgment = read_judgment(job.result / JUDGMENT_FILE)
    _keep(judgment_path(registry.settings, spec), judgment)
    shutil.rmtree(job.work, ignore_errors=True)
    return judgment


def _keep(path: Path, judgment: Judgment) -> None:
    """Write a judgment so that its file appears complete or not at all."""
    part = path.with_name(f".{path.stem}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(judgment.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SettingsError(
            f"Cannot keep a judgment in {path.parent}: {error.strerror}. Make room there, or set "
            "MODKERNEL_HOME to a folder that you can write to."
        ) from None


class _Follower:
    """Hands a child's events on: a target that is done counts as an epoch."""

    def __init__(self, name: str) -> None:
        self._name, self._log = name, get_run_logger()

    def __call__(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "waiting":
                self._log.info(WAITING[event["for"]])
                _tell(self._name, "waiting")
            case "started":
                self._log.info("Judging on %s in process %d.", event["device"], event["pid"])
                _tell(self._name, "judging")
            case "target":
                done, all_of_them = event["target"], event["targets"]
                self._log.info("Task %d of %d is judged.", done, all_of_them)
                emit({"event": "epoch", "module": self._name, "epoch": done, "epochs": all_of_them})


def _tell(name: str, state: str) -> None:
    emit({"event": "module", "module": name, "state": state})
