"""What is said of a study: of how many tasks its means are."""

from __future__ import annotations

import numpy as np
import pytest

from modkernel.flows.cli.study import _print
from modkernel.flows.study.report import ranked_sentence, summary
from modkernel.flows.study.result import Rows, ScoreResult, Seconds, StudyResult, TaskResult
from modkernel.flows.study.statistics import Matrix, agreement, ranked_targets

TRUTH = np.array([[0.9, 0.6, 0.7], [0.7, 0.9, 0.6], [0.8, 0.7, 0.9]])
TIE = np.array([[9.0, 1, 2], [5, 9, 1], [5, 2, 9]])
"""For the first task the modules of the others are equal."""


def rows(matrix: Matrix) -> Rows:
    return tuple(tuple(map(float, row)) for row in matrix)


def scored(name: str, matrix: Matrix) -> ScoreResult:
    return ScoreResult(
        name=name,
        matrix=rows(matrix),
        agreement=agreement(matrix, TRUTH),
        ranked=ranked_targets(matrix, TRUTH, own=False),
        ranked_with_own=ranked_targets(matrix, TRUTH, own=True),
        seconds=0,
    )


def study(*scores: ScoreResult) -> StudyResult:
    tasks = tuple(
        TaskResult(name=name, backbone="mlp", sides={}, module_id="m", reused=True, seconds=1)
        for name in "abc"
    )
    return StudyResult(
        name="small", dataset="digits", fingerprint="f", tasks=tasks, truth=rows(TRUTH),
        balanced=rows(TRUTH), worst=rows(TRUTH), scores=scores, baselines=(),
        training_advice=None, left_out={}, trained_modules=0, reused_modules=3,
        evaluated_modules=0, folder="there", run_id="r",
        seconds=Seconds(training=1, features=1, scores=1, truth=1, flow=1),
    )  # fmt: skip


def test_tasks_that_a_score_does_not_rank_are_not_counted_in_its_means(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = study(scored("logme", TRUTH), scored("static_size", np.ones((3, 3))))
    assert ranked_sentence(whole) == "", "a score that ranks nothing has no mean"
    _print(whole)
    assert "mean of 3 tasks ┏" in " ".join(capsys.readouterr().out.split())
    tied = study(scored("logme", TRUTH), scored("hscore", TIE))
    told = (
        "Correlations are means over the tasks for which the modules differ in the score and in "
        "the ground truth: 2 of 3 (with own 3) for hscore. Points lost are of all tasks."
    )
    assert ranked_sentence(tied) == told
    assert told in summary(tied, {})
    _print(tied)
    shown = " ".join(capsys.readouterr().out.split())
    assert "mean of 3 tasks, or of fewer as told below ┏" in shown
    assert told in shown
