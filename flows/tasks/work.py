"""What a task says of its work, for another machine of a team to do it."""

from __future__ import annotations

import math
from typing import Any

from modkernel.data import describe_dataset
from modkernel.flows.team.dispatch import Work
from modkernel.flows.team.needs import Needs
from modkernel.registry import Registry
from modkernel.spec import DatasetSpec, pairs_from


def work_of(
    registry: Registry,
    task: str,
    dataset: DatasetSpec,
    fingerprint: str,
    /,
    *,
    passes: int,
    like: str | None = None,
    **arguments: Any,
) -> Work:
    """A task's work.

    Args:
        registry: knows what such work took before.
        task: name in `flows.module_work.TASKS`.
        dataset: that is read.
        fingerprint: that it must have.
        passes: over its examples.
        like: registered name of modules whose training took as much memory.
        arguments: of the task.
    """
    info = describe_dataset(dataset, registry.settings.places)
    values = (info.n_train + info.n_validation) * math.prod(info.preprocessing.shape)
    files = (pairs_from(arguments.get("pairs")).file, arguments.get("labels"))
    needs = Needs(
        device=registry.settings.device if registry.settings.device == "cuda" else "auto",
        memory_bytes=None if like is None else _gpu_memory(registry, like),
        dataset=dataset,
        fingerprint=fingerprint,
        files=tuple(file for file in files if file),
    )
    return Work(task, arguments, needs, passes * values)


def _gpu_memory(registry: Registry, name: str) -> int | None:
    """What the newest module of a name took of a GPU's memory; None if that is not known."""
    found = registry.modules.find(name=name)
    if not found:
        return None
    report = registry.modules.report(found[-1])
    return report.peak_memory_bytes if report.device.startswith("cuda") else None
