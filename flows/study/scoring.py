"""All scores for all sources and targets, timed: from moments, and from ground truths."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modkernel.errors import ScoreError
from modkernel.flows.study.statistics import Matrix
from modkernel.reuse.ground_truth import GroundTruth
from modkernel.reuse.moments import ClassMoments, ModuleMoments
from modkernel.reuse.scores import SCORES, score_tasks
from modkernel.reuse.scores.table import ON_MOMENTS
from modkernel.reuse.task import Task


@dataclass(frozen=True, eq=False)
class Scored:
    """One score's matrix, [source, target], and what computing it took."""

    matrix: Matrix
    seconds: float


def score_all(
    moments: Sequence[Sequence[ModuleMoments]],
    truths: Sequence[Sequence[GroundTruth]],
    tasks: Sequence[Sequence[Task]],
    held_out: Sequence[Sequence[ClassMoments | None]],
) -> tuple[dict[str, Scored], dict[str, str]]:
    """Every score of the table for every source and target, in the table's order.

    Args:
        moments: of each source's module on each data set.
        truths: of each source's module on each data set, for its tasks.
        tasks: the targets of each data set.
        held_out: moments of validation examples that are not trained on, of each source's module on
            each data set; none where they cannot be told any more.

    Returns:
        Scores by name, and by name why others are left out: undefined for some pair.
    """
    found: dict[str, Scored] = {}
    left_out: dict[str, str] = {}
    for name, score in SCORES.items():
        try:
            if score.needs in ON_MOMENTS:
                found[name] = _from_moments(name, moments, tasks, held_out)
            else:
                found[name] = _from_truths(name, truths)
        except ScoreError as error:
            left_out[name] = str(error)
    return found, left_out


def _from_moments(
    name: str,
    moments: Sequence[Sequence[ModuleMoments]],
    tasks: Sequence[Sequence[Task]],
    held_out: Sequence[Sequence[ClassMoments | None]],
) -> Scored:
    if SCORES[name].needs == "held_out" and any(None in module for module in held_out):
        raise ScoreError(
            "The measured features, which tell what is held out, do not fit into the feature "
            "cache: set MODKERNEL_FEATURE_CACHE_BYTES higher."
        )
    began = time.perf_counter()
    rows = [
        np.concatenate(
            [
                score_tasks(on_data.train, targets, [name], held)[:, 0].numpy()
                for on_data, targets, held in zip(module, tasks, apart, strict=True)
            ]
        )
        for module, apart in zip(moments, held_out, strict=True)
    ]
    return Scored(np.stack(rows), time.perf_counter() - began)


def _from_truths(name: str, truths: Sequence[Sequence[GroundTruth]]) -> Scored:
    for truth in (each for module in truths for each in module):
        if name in truth.undefined:
            raise ScoreError(truth.undefined[name])
    return Scored(
        np.array(
            [[value for truth in module for value in truth.scores[name]] for module in truths]
        ),
        sum(truth.score_seconds[name] for module in truths for truth in module),
    )
