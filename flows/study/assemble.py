"""Assemble a study's result: matrices in the order of their structure, agreement, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modkernel.features.measure import held_out_moments
from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.study.figures import heat_maps, task_trees
from modkernel.flows.study.files import HEAT_MAPS, TREES
from modkernel.flows.study.new_module import judge_advice
from modkernel.flows.study.plan import StudyPlan, StudyTask
from modkernel.flows.study.result import Rows, ScoreResult, Seconds, StudyResult, TaskResult
from modkernel.flows.study.scoring import Scored, score_all
from modkernel.flows.study.static import static_rankings
from modkernel.flows.study.statistics import (
    Matrix,
    agreement,
    order_by_structure,
    ranked_targets,
)
from modkernel.registry import Registry
from modkernel.registry.backends import feature_cache
from modkernel.reuse.ground_truth import GroundTruth
from modkernel.reuse.new_module import Evidence
from modkernel.reuse.scores import DEFAULT_SCORE, SCORES
from modkernel.reuse.scores.table import ON_MOMENTS
from modkernel.spec import HiddenModuleSpec, ModuleSpec


def assemble_result(
    registry: Registry,
    plan: StudyPlan,
    modules: Sequence[ModuleResult],
    evaluated: Sequence[Sequence[tuple[bool, GroundTruth]]],
    folder: Path,
    run_id: str,
    began: float,
) -> StudyResult:
    """The result of a study whose modules are all trained, measured and evaluated.

    Args:
        registry: has the moments.
        plan: of the study.
        modules: one a task.
        evaluated: for each module and data set whether its ground truth was there already, and
            itself.
        folder: of the files.
        run_id: the MLflow run.
        began: `time.perf_counter()` at the flow's start.
    """
    records = [registry.modules.resolve(module.id) for module in modules]
    moments = [
        [registry.moments.load(record, part.info.fingerprint) for part in plan.parts]
        for record in records
    ]
    truths = [[truth for _, truth in module] for module in evaluated]
    truth, balanced = (_joined(truths, name) for name in ("accuracy", "balanced_accuracy"))
    cache = feature_cache(registry.settings)
    held_out = [
        [
            held_out_moments(cache, on_data, part.info)
            for part, on_data in zip(plan.parts, module, strict=True)
        ]
        for module in moments
    ]
    found, left_out = score_all(moments, truths, [part.tasks for part in plan.parts], held_out)
    order = order_by_structure(truth)
    static = static_rankings(
        records, [task.examples for task in plan.tasks], len(plan.tasks), registry.settings
    )

    def results(scored: Mapping[str, Scored]) -> tuple[ScoreResult, ...]:
        return tuple(
            ScoreResult(
                name=name,
                matrix=_arranged(score.matrix, order),
                agreement=agreement(score.matrix, truth),
                ranked=ranked_targets(score.matrix, truth, own=False),
                ranked_with_own=ranked_targets(score.matrix, truth, own=True),
                seconds=score.seconds,
            )
            for name, score in scored.items()
        )

    return StudyResult(
        name=plan.spec.name,
        dataset=" and ".join(part.title for part in plan.parts),
        fingerprint=plan.parts[0].info.fingerprint,
        tasks=tuple(_task(plan.tasks[place], modules[place]) for place in order),
        truth=_arranged(truth, order),
        balanced=_arranged(balanced, order),
        worst=_arranged(_joined(truths, "worst_accuracy"), order),
        scores=results(found),
        baselines=results(static),
        training_advice=None
        if DEFAULT_SCORE not in found
        else judge_advice(_own(plan, modules, balanced), balanced, found[DEFAULT_SCORE].matrix),
        left_out=left_out,
        trained_modules=sum(not module.reused for module in modules),
        reused_modules=sum(module.reused for module in modules),
        evaluated_modules=sum(not all(there for there, _ in module) for module in evaluated),
        seconds=Seconds(
            training=sum(module.seconds for module in modules),
            features=sum(on_data.seconds for module in moments for on_data in module),
            scores=sum(
                score.seconds for name, score in found.items() if SCORES[name].needs in ON_MOMENTS
            ),
            truth=sum(each.truth_seconds for module in truths for each in module),
            flow=time.perf_counter() - began,
        ),
        folder=str(folder),
        run_id=run_id,
    )


def _joined(truths: Sequence[Sequence[GroundTruth]], figure: str) -> Matrix:
    """A figure of ground truths, [source, target], targets of all data sets side by side."""
    return np.array([[v for truth in module for v in getattr(truth, figure)] for module in truths])


def _own(plan: StudyPlan, modules: Sequence[ModuleResult], balanced: Matrix) -> list[Evidence]:
    """Each task's own module, as evidence of what training one gives."""
    return [
        Evidence(
            recipe=_backbone(task.module),
            dataset=plan.parts[task.part].info.fingerprint,
            classes=len(task.task.groups),
            examples=task.examples,
            accuracy=float(balanced[place, place]),
            seconds=module.seconds,
        )
        for place, (task, module) in enumerate(zip(plan.tasks, modules, strict=True))
    ]


def _task(task: StudyTask, module: ModuleResult) -> TaskResult:
    return TaskResult(
        name=task.name,
        backbone=_backbone(task.module),
        sides=task.task.groups,
        module_id=module.id,
        reused=module.reused,
        seconds=module.seconds,
    )


def _backbone(spec: ModuleSpec) -> str:
    """What a module was made of: 'resnet18, width 16'."""
    assert isinstance(spec, HiddenModuleSpec)
    parts = [spec.backbone.name]
    if spec.backbone.width is not None:
        parts.append(f"width {spec.backbone.width}")
    if spec.backbone.name == "mlp":
        parts.append(f"depth {spec.backbone.depth}")
    return ", ".join(parts)


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
