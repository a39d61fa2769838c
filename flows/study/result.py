"""What a study gives: JSON-clean, with tasks in the order of their structure."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec import Spec

Rows = tuple[tuple[float, ...], ...]
"""A matrix: one row a source task, one column a target task."""


class Agreement(Spec):
    """How well one score ranks the sources of every target, as a mean over the targets.

    A value is none where no target defines it: a ranking of less than two sources, or of sources
    that are all equal in the score or in the ground truth.
    """

    spearman: float | None
    kendall: float | None
    weighted_tau: float | None
    spearman_with_own: float | None
    """With the target's own module among the sources, as the next two."""
    kendall_with_own: float | None
    weighted_tau_with_own: float | None
    lost: float | None
    """Percentage points of accuracy; see `statistics.accuracy_lost`."""


class TaskResult(Spec):
    """One task and the module that was trained for it."""

    name: str
    backbone: str
    sides: dict[str, tuple[str, ...]]
    """Classes of each side."""
    module_id: str
    reused: bool
    """Whether the module was there already."""
    seconds: float
    """Spent training it, whenever that was."""


class ScoreResult(Spec):
    """One score for every source and target."""

    name: str
    matrix: Rows
    agreement: Agreement
    """With the ground truth."""
    ranked: int
    """How many targets its correlations are of: those whose sources differ in score and truth."""
    ranked_with_own: int
    """Likewise of those with the target's own module."""
    seconds: float
    """Of computing the whole matrix from what was there: moments, features or outputs."""


class TrainingAdvice(Spec):
    """How often the advice whether to train a new module was right; numbers of tasks."""

    better: int
    """Whose own module is better than the best-scored one of another task."""
    train: int
    """Of which the advice said 'train one'."""
    train_right: int
    reuse: int
    """Of which it said that reuse is as good."""
    reuse_right: int
    unsure: int
    """Of which it said that it cannot be told."""


class Seconds(Spec):
    """What the parts cost, whenever they were done; what was reused counts as when it was made."""

    training: float
    """Of all modules."""
    features: float
    """Of one pass over the measured examples per module, moments included."""
    scores: float
    """Of all scores that need moments alone, each by itself, for all sources and targets."""
    truth: float
    """Of the ground truth: features of all examples, and output modules for all pairs."""
    flow: float
    """Of this call of the flow."""

    @property
    def features_share(self) -> float:
        """Of training; 0 where that took no time."""
        return self.features / self.training if self.training else 0.0

    @property
    def scores_share(self) -> float:
        """Of training; 0 where that took no time."""
        return self.scores / self.training if self.training else 0.0


class StudyResult(Spec):
    """A whole study. Matrices have their rows and columns in the order of `tasks`."""

    name: str
    dataset: str
    fingerprint: str
    """Of the data of all tasks' classes."""
    tasks: tuple[TaskResult, ...]
    truth: Rows = Field(description="Test accuracy of a fresh output module, in [0, 1].")
    balanced: Rows = Field(description="Its balanced accuracy.")
    worst: Rows = Field(description="Its accuracy on the target's side of least accuracy.")
    scores: tuple[ScoreResult, ...]
    """As in the table of scores."""
    baselines: tuple[ScoreResult, ...]
    """Rankings that look at no target (`static.STATIC`): what a score has to beat."""
    training_advice: TrainingAdvice | None
    """None where the default score is left out."""
    left_out: dict[str, str]
    """Scores that are undefined for some source and target, with the reason."""
    trained_modules: int
    reused_modules: int
    evaluated_modules: int
    """Whose ground truth was made by this call; that of the others was there."""
    seconds: Seconds
    folder: str
    """Where results.json, scores.csv and the figures are."""
    run_id: str
    """MLflow run."""

    @property
    def best_first(self) -> list[ScoreResult]:
        """Scores and baselines by Spearman's correlation; those that have none are last."""

        def spearman(score: ScoreResult) -> float:
            value = score.agreement.spearman
            return -2.0 if value is None else value

        return sorted((*self.scores, *self.baselines), key=spearman, reverse=True)
