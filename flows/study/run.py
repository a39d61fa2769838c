"""The MLflow run of a study: one for each of its recipes, parent of its modules' runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from modkernel.flows.runtime.claims import claim_unless, renewed
from modkernel.flows.runtime.mlflow_runs import ending_with, tells_who_is_waited_for
from modkernel.flows.study.plan import StudyPlan
from modkernel.registry import Claim, Registry


@dataclass(frozen=True)
class StudyRun:
    """An MLflow run, and whether there is something to be put on it."""

    id: str
    is_new: bool


@contextmanager
def study_run(registry: Registry, plan: StudyPlan) -> Iterator[StudyRun]:
    """The run of a study. One that has finished is used again where nothing is left to be done.

    Equal studies at once wait for each other, as networks do.
    """
    spec = plan.spec
    facts = [
        *(part.info.fingerprint for part in plan.parts),
        spec.digest(),
        *(task.module.digest() for task in plan.tasks),
    ]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def finished() -> str | None:
        return registry.runs.find_finished(digest) if _is_done(registry, plan) else None

    held = claim_unless(registry, digest, finished, tells_who_is_waited_for(spec.name))
    if not isinstance(held, Claim):
        yield StudyRun(held, is_new=False)
        return
    with renewed(held):
        run_id = registry.runs.start_study(
            spec.name,
            spec.dataset.name,
            spec,
            digest,
            {
                "dataset": spec.dataset.name,
                "backbone": spec.backbone.name,
                "tasks": str(len(plan.tasks)),
                "seed": str(spec.seed),
            },
        )
        with ending_with(registry, run_id):
            yield StudyRun(run_id, is_new=True)


def _is_done(registry: Registry, plan: StudyPlan) -> bool:
    for task in plan.tasks:
        record = registry.modules.find_ready(task.module.digest())
        if record is None:
            return False
        for number, part in enumerate(plan.parts):
            if not registry.moments.has(record, part.info.fingerprint):
                return False
            if registry.ground_truths.find(plan.ground_truth(task, number, record.id)) is None:
                return False
    return True
