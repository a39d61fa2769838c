"""The task that finds the ground truth of one stored module, or finds it stored already."""

from __future__ import annotations

from functools import partial

from prefect.logging import get_run_logger

from modkernel.flows.runtime.events import EpochDone, emit
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.tasks.child import chain_files, make_job, runs_child
from modkernel.flows.tasks.child_events import ChildEvent, TargetJudged
from modkernel.flows.tasks.once import RunChild, once
from modkernel.flows.tasks.seen import untested
from modkernel.flows.tasks.work import work_of
from modkernel.jobs.job import GroundTruthJob
from modkernel.reuse.ground_truth import GROUND_TRUTH_FILE, GroundTruth, GroundTruthSpec
from modkernel.spec import DatasetSpec


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

    def judge(run: RunChild) -> GroundTruth:
        record = registry.modules.resolve(spec.module_id)
        chain = registry.modules.chain(record)
        tests = untested(registry, chain, dataset, spec.fingerprint)
        job = make_job(
            GroundTruthJob,
            registry.settings,
            spec.digest(),
            ground_truth=spec,
            fingerprint=spec.fingerprint,
            dataset=dataset,
            upstream=chain_files(registry, chain),
            left_out=tests.left_out,
            seen=None if tests.unknown and not tests.seen else tests.seen,
        )
        run(job, partial(_follow, name))
        return registry.ground_truths.store(job.result / GROUND_TRUTH_FILE)

    truth, is_new = once(
        registry,
        spec.digest(),
        name,
        "evaluating",
        find=lambda: registry.ground_truths.find(spec),
        make=judge,
        work=partial(
            work_of,
            registry,
            "ground_truth",
            dataset,
            spec.fingerprint,
            passes=len(spec.targets),
            name=name,
            spec=spec,
            dataset=dataset,
        ),
        made="evaluated",
        found="evaluated",
    )
    return not is_new, truth


def _follow(name: str, event: ChildEvent) -> None:
    """A target that is evaluated is shown as an epoch."""
    if isinstance(event, TargetJudged):
        get_run_logger().info("Task %d of %d is evaluated.", event.target, event.targets)
        emit(EpochDone(name, event.target, event.targets))
