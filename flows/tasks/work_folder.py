"""The folders in which children work, one for each key: removed once nobody needs them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modkernel.data.cache_files import read_json
from modkernel.registry import Registry
from modkernel.registry.backends import this_process
from modkernel.spec.group import GroupSpec

RESUMED = ("hidden", "together", "stitch", "end_to_end")
"""Kinds of jobs that leave checkpoints."""


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

    A folder with the checkpoint of a module that is not stored yet is none.
    """
    for folder in registry.settings.work_dir.iterdir():
        if registry.is_claimed(folder.name):
            continue
        job = read_json(folder / "job.json")
        resumes = isinstance(job, dict) and job.get("kind") in RESUMED
        if not resumes or _is_stored(registry, folder.name, job):
            yield folder


def _is_stored(registry: Registry, key: str, job: Any) -> bool:
    if job["kind"] == "together":
        try:
            group = GroupSpec.model_validate(job.get("group"))
        except ValidationError:
            return False  # Of another version; it is removed when it is old.
        return registry.modules.find_group(group) is not None
    return registry.modules.find_ready(key) is not None


def sweep_work(registry: Registry) -> None:
    """Remove the work folders that are left."""
    for folder in left_work(registry):
        remove_work(registry, folder.name)
