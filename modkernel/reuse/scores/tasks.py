"""Score modules for tasks, from their class moments alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from modkernel.errors import MomentsError, ScoreError
from modkernel.lookup import lookup
from modkernel.reuse.moments import ClassMoments
from modkernel.reuse.scores.statistics import ClassGrams, TaskStatistics
from modkernel.reuse.scores.table import DEFAULT_SCORE, ON_MOMENTS, SCORES, Score
from modkernel.reuse.task import Task

__all__ = ["moment_score", "reusability", "score_of", "score_tasks", "threads_for"]

ONE_THREAD = 512
"""Features d up to which linear algebra on [d, d] runs in one thread."""


def reusability(
    moments: ClassMoments,
    task: Task | None = None,
    score: str = DEFAULT_SCORE,
    held_out: ClassMoments | None = None,
) -> float:
    """How good a module is to build on for a task, by a score of its features. No training.

    >>> from modkernel.reuse.moments import accumulate
    >>> phi = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])  # unit rows
    >>> moments = accumulate([(phi, torch.tensor([0, 0, 1, 1]))], ["cat", "dog"], "")
    >>> round(reusability(moments, score="pair_correlation"), 3)
    0.399

    Args:
        moments: of the module's features on the task's training examples.
        task: on these classes; all of them, one against the others, if left out.
        score: name in `SCORES`, of one that needs moments.
        held_out: moments of held-out examples, for scores that need them.

    Raises:
        UnknownNameError: no score has that name.
        ClassError: the task names an unknown class, or fewer than two.
        MomentsError: the held-out moments are of other classes or other data.
        ScoreError: the score is undefined for these examples, or needs more than moments.
    """
    whole = Task.of_classes(moments.classes) if task is None else task
    return float(score_tasks(moments, [whole], [score], held_out)[0, 0])


def score_tasks(
    moments: ClassMoments,
    tasks: Sequence[Task],
    scores: Sequence[str],
    held_out: ClassMoments | None = None,
) -> Tensor:
    """Scores of a module for several tasks; what tasks and scores share is computed once.

    Args:
        moments: of the module's features on training examples of all tasks' classes.
        tasks: T tasks on these classes.
        scores: S names in `SCORES`, of scores that need moments.
        held_out: moments of held-out examples, for scores that need them.

    Returns:
        float64 [T, S], every number finite.

    Raises:
        UnknownNameError: no score has one of the names.
        ClassError: a task names an unknown class.
        MomentsError: the held-out moments are of other classes or other data.
        ScoreError: the first score that is undefined, or needs more than moments.
    """
    if held_out is not None and (held_out.classes, held_out.fingerprint) != (
        moments.classes,
        moments.fingerprint,
    ):
        raise MomentsError(
            "Moments of training and of held-out examples are of different data or classes: take "
            "both from one module on one data set."
        )
    rows = [moment_score(name) for name in scores]
    grams = ClassGrams(moments)
    values = torch.empty(len(tasks), len(rows), dtype=torch.float64)
    with threads_for(moments.dimension):
        for at, task in enumerate(tasks):
            statistics = TaskStatistics(task, moments, grams, held_out)
            for column, row in enumerate(rows):
                values[at, column] = score_of(statistics, row)
    return values


@contextmanager
def threads_for(dimension: int) -> Iterator[None]:
    """One thread for matrices [d, d] up to `ONE_THREAD`.

    More of them gain a third at most, and take ten times as long where another process, such as
    a training on the next slot, wants one of the cores. The number belongs to the whole process,
    so only the main thread sets it: others would restore what they found while one was scoring.
    """
    if dimension > ONE_THREAD or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def moment_score(name: str) -> Score:
    """The score of that name.

    Raises:
        UnknownNameError: no score has that name.
        ScoreError: it needs features or outputs.
    """
    row = lookup(SCORES, name, "score")
    if row.needs not in ON_MOMENTS:
        needed = row.needs.replace("_", " ")
        usable = [score.name for score in SCORES.values() if score.needs in ON_MOMENTS]
        raise ScoreError(
            f"Score '{name}' is not computed from class moments, but from {needed}: use one "
            f"of {', '.join(usable)}."
        )
    return row


def score_of(statistics: TaskStatistics, row: Score) -> float:
    """A score that needs moments, for one task.

    Raises:
        ScoreError: it is undefined for these examples.
    """
    value = row.function(statistics)
    if not math.isfinite(value):
        raise ScoreError(
            f"Score '{row.name}' of task '{statistics.task.name}' is lost in rounding: the "
            "features vary too little for it. Use another score, such as 'pair_correlation'."
        )
    return value
