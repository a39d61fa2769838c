"""How often the advice to train a new module is right: of each task, told by the other ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modkernel.flows.study.result import TrainingAdvice
from modkernel.flows.study.statistics import Matrix
from modkernel.reuse.new_module import Evidence, forecast, verdict


def judge_advice(own: Sequence[Evidence], balanced: Matrix, scores: Matrix) -> TrainingAdvice:
    """What `reuse.new_module` says of each task when only the others were trained, and the truth.

    Reuse is the best-scored module of another task; training is the task's own module.

    Args:
        own: each task's own module, evaluated on its task.
        balanced: balanced accuracies [source, target].
        scores: that the source is chosen by, [source, target].
    """
    said: list[tuple[str, bool]] = []
    for target, task in enumerate(own):
        others = [one for place, one in enumerate(own) if place != target]
        ranked = np.where(np.arange(len(own)) == target, -np.inf, scores[:, target])
        reached = float(balanced[ranked.argmax(), target])
        new = forecast(others, task.dataset, task.classes, task.examples)
        said.append((verdict(new, reached), task.accuracy > reached))
    return TrainingAdvice(
        better=sum(better for _, better in said),
        train=sum(what == "train" for what, _ in said),
        train_right=sum(what == "train" and better for what, better in said),
        reuse=sum(what == "reuse" for what, _ in said),
        reuse_right=sum(what == "reuse" and not better for what, better in said),
        unsure=sum(what == "unsure" for what, _ in said),
    )
