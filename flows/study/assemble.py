"""Put a study's result together: matrices in the order of their structure, agreement, seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modkernel.flows.results import ModuleResult
from modkernel.flows.study.files import HEAT_MAPS, TREES
from modkernel.flows.study.pictures import heat_maps, task_trees
from modkernel.flows.study.plan import StudyPlan
from modkernel.flows.study.result import Rows, ScoreResult, Seconds, StudyResult, TaskResult
from modkernel.flows.study.scoring import ON_MOMENTS, score_all
from modkernel.flows.study.statistics import Matrix, agreement, order_by_structure
from modkernel.registry import Registry
from modkernel.reuse.ground_truth import GroundTruth
from modkernel.reuse.scores import DEFAULT_SCORE, SCORES


def put_together(
    registry: Registry,
    plan: StudyPlan,
    modules: Sequence[ModuleResult],
    evaluated: Sequence[tuple[bool, GroundTruth]],
    folder: Path,
    run_id: str,
    began: float,
) -> StudyResult:
    """The result of a study whose modules are all trained, measured and evaluated.

    Args:
        registry: has the moments.
        plan: of the study.
        modules: one a task.
        evaluated: for each module whether its ground truth was there already, and itself.
        folder: of the files.
        run_id: the MLflow run.
        began: `time.perf_counter()` at the flow's start.
    """
    records = [registry.resolve(module.id) for module in modules]
    moments = [registry.moments(record, plan.info.fingerprint) for record in records]
    truths = [truth for _, truth in evaluated]
    truth = np.array([truth.accuracy for truth in truths])
    found, left_out = score_all(moments, truths, [task.task for task in plan.tasks])
    order = order_by_structure(truth)

    def arranged(matrix: Matrix) -> Rows:
        return tuple(tuple(float(matrix[row, column]) for column in order) for row in order)

    return StudyResult(
        name=plan.spec.name,
        dataset=plan.info.name,
        fingerprint=plan.info.fingerprint,
        tasks=tuple(
            TaskResult(
                name=plan.tasks[position].name,
                sides=plan.tasks[position].task.groups,
                module_id=modules[position].id,
                reused=modules[position].reused,
                seconds=modules[position].seconds,
            )
            for position in order
        ),
        truth=arranged(truth),
        scores=tuple(
            ScoreResult(
                name=name,
                matrix=arranged(score.matrix),
                agreement=agreement(score.matrix, truth),
                seconds=score.seconds,
            )
            for name, score in found.items()
        ),
        left_out=left_out,
        trained_modules=sum(not module.reused for module in modules),
        reused_modules=sum(module.reused for module in modules),
        evaluated_modules=sum(not there for there, _ in evaluated),
        seconds=Seconds(
            training=sum(module.seconds for module in modules),
            features=sum(module.seconds for module in moments),
            scores=sum(
                score.seconds for name, score in found.items() if SCORES[name].needs in ON_MOMENTS
            ),
            truth=sum(truth.truth_seconds for truth in truths),
            flow=time.perf_counter() - began,
        ),
        folder=str(folder),
        run_id=run_id,
    )


def picture_study(result: StudyResult) -> dict[str, bytes]:
    """The pictures of a study, by file name."""
    names = [task.name for task in result.tasks]
    truth = np.array(result.truth)
    scores = [(score.name, np.array(score.matrix), score.agreement) for score in result.best_first]
    pictures = {HEAT_MAPS: heat_maps(names, truth, scores)}
    by_name = {name: matrix for name, matrix, _ in scores}
    if DEFAULT_SCORE in by_name:
        pictures[TREES] = task_trees(names, truth, DEFAULT_SCORE, by_name[DEFAULT_SCORE])
    return pictures
