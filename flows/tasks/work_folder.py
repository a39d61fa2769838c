"""The folders in which children work, one for each key: removed once nobody needs them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modkernel.data.cache_files import read_json
from modkernel.registry import Registry
from modkernel.registry.backends import this_process
from modkernel.spec.group import GroupSpec

RESUMED = ("hidden", "together", "stitch", "end_to_end")
"""Kinds of jobs that leave checkpoints."""
ABANDONED_DAYS = 30
"""After which a training that stopped half-way, and that nobody has gone on with, is given up."""


def remove_work(registry: Registry, key: str) -> None:
    """Remove the work folder of a key, unless a flow is at work in it.

    A claim that ended by a kill leaves its folder behind, beside what was stored from it. What is
    stored is found before its maker is done with the folder: only the holder of the claim may
    remove it.
    """
    folder = registry.settings.work_dir / key
    claim = registry.claim(key, this_process()) if folder.exists() else None
    if claim is not None:
        with claim:
            shutil.rmtree(folder, ignore_errors=True)


def left_work(registry: Registry) -> Iterator[Path]:
    """The work folders that killed flows have left and nobody will resume.

    A folder with the checkpoint of what is not stored yet is none.

    Raises:
        StoreError: the database or MLflow cannot be asked.
    """
    for folder in _unclaimed(registry):
        if not _is_unfinished(registry, folder):
            yield folder


def abandoned_work(registry: Registry) -> Iterator[Path]:
    """The work folders of training that the same command would resume, if anybody gave it again.

    Nothing has been written in them for `ABANDONED_DAYS`. What they hold is lost with them, so a
    person decides.

    Raises:
        StoreError: the database or MLflow cannot be asked.
    """
    before = time.time() - timedelta(days=ABANDONED_DAYS).total_seconds()
    for folder in _unclaimed(registry):
        if _last_written(folder) < before and _is_unfinished(registry, folder):
            yield folder


def _unclaimed(registry: Registry) -> Iterator[Path]:
    for folder in registry.settings.work_dir.iterdir():
        if not registry.is_claimed(folder.name):
            yield folder


def _is_unfinished(registry: Registry, folder: Path) -> bool:
    """Whether a checkpoint may lie there of what is not stored yet."""
    job = read_json(folder / "job.json")
    resumes = isinstance(job, dict) and job.get("kind") in RESUMED
    return resumes and not _is_stored(registry, folder.name, job)


def _is_stored(registry: Registry, key: str, job: Any) -> bool:
    if job["kind"] == "together":
        try:
            group = GroupSpec.model_validate(job.get("group"))
        except ValidationError:
            return False  # Of another version.
        return registry.modules.find_group(group) is not None
    if job["kind"] == "end_to_end":
        return registry.baselines.find(key) is not None
    return registry.modules.find_ready(key) is not None


def _last_written(folder: Path) -> float:
    """When something was last written in a folder, in seconds since 1970."""
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return max(times)


def sweep_work(registry: Registry) -> None:
    """Remove the work folders that are left."""
    for folder in left_work(registry):
        remove_work(registry, folder.name)
