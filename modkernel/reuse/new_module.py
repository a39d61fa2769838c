"""When to train a new module: what past ones reached on tasks like this, and what they cost.

The model is as simple as the evidence is thin: the past tasks that are like this one, of the recipe
that was evaluated on most of them. If the next task is one of their kind, so that any order of them
is as likely, it falls between the j-th lowest and the j-th highest of k with probability
1 − 2j / (k + 1), whatever their distribution.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FEWEST", "Evidence", "Forecast", "Verdict", "forecast", "verdict"]

FEWEST = 5
"""Past tasks like this one of one recipe, below which nothing is said."""
CLASSES_RATIO = 2.0
"""A task like this one has at most so many times as many classes, or as few."""
EXAMPLES_RATIO = 4.0
"""Likewise of training examples."""
OUTSIDE = 0.1
"""Share of tasks that may fall outside of the interval, where there are enough to tell."""

Verdict = Literal["train", "reuse", "unsure"]


@dataclass(frozen=True)
class Evidence:
    """A network whose modules were all trained for the task that it was evaluated on.

    Attributes:
        recipe: what was trained and how, in words.
        dataset: what tells its data set from others.
        classes: of the task.
        examples: for training.
        accuracy: balanced, on the test part, with all labels.
        seconds: of training.
        digest: of all that the words leave out; recipes of equal words and digests are equal.
    """

    recipe: str
    dataset: str
    classes: int
    examples: int
    accuracy: float
    seconds: float
    digest: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a new module would probably reach on a task, and cost.

    Attributes:
        recipe: of the past ones.
        tasks: how many there are.
        same_data: whether all are on the same data set as the task.
        accuracy: balanced; the median.
        interval: of it.
        seconds: of training; the median.
        seconds_interval: of it.
        probability: of each interval.
    """

    recipe: str
    tasks: int
    same_data: bool
    accuracy: float
    interval: tuple[float, float]
    seconds: float
    seconds_interval: tuple[float, float]
    probability: float


def forecast(
    evidence: Sequence[Evidence], dataset: str, classes: int, examples: int
) -> Forecast | int:
    """What the past tells of a task; a number of past tasks where they are too few.

    Past tasks are like this one if they have between half and twice as many classes, and between a
    quarter and four times as many training examples; those on the same data set come first.
    Accuracies are compared as the share of the way from a guess to all right, which does not depend
    on the number of classes; seconds grow with the examples.

    Args:
        evidence: any order; later ones count as more recent.
        dataset: what tells the task's data set from others.
        classes: of the task.
        examples: training examples of the task.

    Returns:
        The forecast, or how many past tasks of one recipe there are, below `FEWEST`.
    """
    like = [
        one
        for one in evidence
        if _within(one.classes, classes, CLASSES_RATIO)
        and _within(one.examples, examples, EXAMPLES_RATIO)
    ]
    own = [one for one in like if one.dataset == dataset]
    most = 0
    for same_data, among in ((True, own), (False, like)):
        chosen = _commonest(among)
        most = max(most, len(chosen))
        if len(chosen) >= FEWEST:
            return _forecast(chosen, classes, examples, same_data)
    return most


def verdict(new: Forecast | int, reached: float | None) -> Verdict:
    """Whether to train a new module where reuse reaches a balanced accuracy; none if not known."""
    if isinstance(new, int) or reached is None:
        return "unsure"
    low, high = new.interval
    return "train" if low > reached else "reuse" if high <= reached else "unsure"


def _within(one: int, other: int, ratio: float) -> bool:
    return max(one, other) <= ratio * min(one, other)


def _commonest(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Those of the recipe that most are of; the more recent of equals."""
    by_recipe: dict[tuple[str, str], list[Evidence]] = {}
    for one in evidence:
        by_recipe.setdefault((one.recipe, one.digest), []).append(one)
    return max(reversed(by_recipe.values()), key=len, default=[])


def _forecast(
    evidence: Sequence[Evidence], classes: int, examples: int, same_data: bool
) -> Forecast:
    skills = [(one.accuracy - 1 / one.classes) / (1 - 1 / one.classes) for one in evidence]
    costs = [one.seconds * examples / one.examples for one in evidence]
    count = len(evidence)
    outer = max(1, int(OUTSIDE / 2 * (count + 1)))

    def accuracy(skill: float) -> float:
        return min(1.0, max(0.0, 1 / classes + skill * (1 - 1 / classes)))

    def between(
        values: Sequence[float], shown: Callable[[float], float] = float
    ) -> tuple[float, float]:
        ordered = sorted(values)
        return shown(ordered[outer - 1]), shown(ordered[-outer])

    return Forecast(
        recipe=evidence[0].recipe,
        tasks=count,
        same_data=same_data,
        accuracy=accuracy(statistics.median(skills)),
        interval=between(skills, accuracy),
        seconds=statistics.median(costs),
        seconds_interval=between(costs),
        probability=1 - 2 * outer / (count + 1),
    )
