"""Assemble a study's result: matrices in the order of their structure, agreement, seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.study.figures import heat_maps, task_trees
from modkernel.flows.study.files import HEAT_MAPS, TREES
from modkernel.flows.study.plan import StudyPlan, StudyTask
from modkernel.flows.study.result import Rows, ScoreResult, Seconds, StudyResult, TaskResult
from modkernel.flows.study.scoring import score_all
from modkernel.flows.study.statistics import Matrix, agreement, order_by_structure
from modkernel.registry import Registry
from modkernel.reuse.ground_truth import GroundTruth
from modkernel.reuse.scores import DEFAULT_SCORE, SCORES
from modkernel.reuse.scores.table import ON_MOMENTS


def assemble_result(
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
    records = [registry.modules.resolve(module.id) for module in modules]
    moments = [registry.moments.load(record, plan.info.fingerprint) for record in records]
    truths = [truth for _, truth in evaluated]
    truth = np.array([truth.accuracy for truth in truths])
    found, left_out = score_all(moments, truths, [task.task for task in plan.tasks])
    order = order_by_structure(truth)
    return StudyResult(
        name=plan.spec.name,
        dataset=plan.info.name,
        fingerprint=plan.info.fingerprint,
        tasks=tuple(_task(plan.tasks[place], modules[place]) for place in order),
        truth=_arranged(truth, order),
        balanced=_arranged(np.array([truth.balanced_accuracy for truth in truths]), order),
        worst=_arranged(np.array([truth.worst_accuracy for truth in truths]), order),
        scores=tuple(
            ScoreResult(
                name=name,
                matrix=_arranged(score.matrix, order),
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


def _task(task: StudyTask, module: ModuleResult) -> TaskResult:
    return TaskResult(
        name=task.name,
        sides=task.task.groups,
        module_id=module.id,
        reused=module.reused,
        seconds=module.seconds,
    )


def _arranged(matrix: Matrix, order: Sequence[int]) -> Rows:
    """Rows and columns of a matrix [T, T] in an order."""
    return tuple(tuple(float(matrix[row, column]) for column in order) for row in order)


def study_figures(result: StudyResult) -> dict[str, bytes]:
    """The figures of a study, by file name."""
    names = [task.name for task in result.tasks]
    truth = np.array(result.truth)
    scores = [(score.name, np.array(score.matrix), score.agreement) for score in result.best_first]
    figures = {HEAT_MAPS: heat_maps(names, truth, scores)}
    by_name = {name: matrix for name, matrix, _ in scores}
    if DEFAULT_SCORE in by_name:
        figures[TREES] = task_trees(names, truth, DEFAULT_SCORE, by_name[DEFAULT_SCORE])
    return figures
