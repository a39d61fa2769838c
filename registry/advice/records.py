"""What advice consists of: frozen records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modkernel.registry.records import ModuleRecord, Record
from modkernel.reuse.new_module import Verdict
from modkernel.reuse.task import Task
from modkernel.training.report import ClassRecall

NoAccuracy = Literal["features", "pairs", "seen", "score"]
"""Why a module has no accuracy: its measured features are not cached any more; a list of pairs let
it see the held-out examples; it was trained on all of them; they are too few."""
WhyLeftOut = Literal["interface", "moments", "score", "features", "pairs", "seen"]
"""Why a module is in no ranking, or not among those that are joined: it takes other examples, or
cannot stand beside others; it was not measured on these data; the score is undefined for it; its
measured features are not cached any more; a list of pairs let it see the held-out examples; it was
trained on some of them."""


class Ranked(Record):
    """A module that can be built on for a task, and how good that promises to be."""

    module: ModuleRecord
    score: float = Field(description="Larger is better; comparable within one answer.")
    interval: tuple[float, float] | None = Field(
        description="5 % and 95 % quantiles of the score over resampled examples, where few "
        "examples make it unsure."
    )
    accuracy: float | None = Field(
        description="Of a closed-form output module on held-out examples; none if not computed."
    )
    balanced_accuracy: float | None = Field(
        description="Mean over the task's sides of each one's accuracy."
    )
    knn: float | None = Field(
        None,
        description="Balanced accuracy of the nearest measured training examples' vote on the "
        "same held-out examples.",
    )
    worst_class: ClassRecall | None = Field(description="The task's side of least accuracy.")
    reason: NoAccuracy | None = Field(
        description="Why one that was looked at closely has no accuracy."
    )
    message: str | None = Field(description="The same, as a sentence.")
    own: bool = Field(
        description="Trained on this very task, as far as is known: of a part of a folder or a "
        "file it is not."
    )
    seen: int = Field(
        0,
        description="Held-out examples of the task that it or a module under it was trained on, as "
        "part of another data set; the accuracy leaves them out.",
    )
    fitted: bool = Field(
        description="Trained on some of these very examples, as far as is known: the score is "
        "taken on what the module was fitted to."
    )


class LeftOut(Record):
    """A module that is not ranked, and why."""

    module: ModuleRecord
    reason: WhyLeftOut
    message: str


class Advice(Record):
    """Stored modules ranked for a task, best first."""

    task: Task
    dataset: str = Field(description="Name of the whole data set.")
    fingerprint: str
    score: str
    ranked: tuple[Ranked, ...]
    left_out: tuple[LeftOut, ...]


class JoinStep(Record):
    """One more module beside those before it, and what they all give together.

    What is held out is the half of the held-out examples that took no part in the choice.
    """

    module: ModuleRecord
    balanced_accuracy: float = Field(
        description="Of a closed-form output module on the joint features, held out: the mean over "
        "the task's sides."
    )
    gain: float = Field(description="Of that over the step before; in the first step over a guess.")
    gain_error: float = Field(description="Standard error of the gain.")
    explained: float = Field(description="Share of the held-out labels' variance.")
    brings: float = Field(
        description="Standard errors by which the module lowers the held-out squared error."
    )
    score: float | None = Field(
        description="Of the joint features; none where it is undefined for them."
    )
    features: int = Field(description="Of all modules so far.")
    parameters: int | None = Field(
        description="Of all hidden modules so far, each once; none where a backbone cannot be made."
    )
    multiply_adds: int | None = Field(description="Likewise, for one example.")
    seconds: float = Field(description="That the choice of this module took.")


class Together(Record):
    """Stored modules to join for a task, in the order in which they were chosen."""

    task: Task
    dataset: str = Field(description="Name of the whole data set.")
    fingerprint: str
    score: str
    steps: tuple[JoinStep, ...]
    refused: JoinStep | None = Field(
        description="The best next module, where it brings nothing beyond noise: the choice ended "
        "before it."
    )
    candidates: int = Field(description="Modules that could be joined.")
    examples: int = Field(description="Training examples of the task that were used.")
    of_examples: int = Field(description="Of so many that were measured.")
    judging: int = Field(description="Held-out examples that judge; as many chose.")
    seconds: float
    left_out: tuple[LeftOut, ...]


class NewModule(Record):
    """What a module that is trained for a task would probably reach and cost, beside reuse."""

    verdict: Verdict = Field(
        description="'train' where a new module is probably better, 'reuse' where reuse is, "
        "'unsure' where it cannot be told."
    )
    reached: float | None = Field(description="Balanced accuracy by reuse, if it is known.")
    tasks: int = Field(description="Past tasks of one recipe that are like this one.")
    recipe: str | None = Field(
        None, description="Of them; none, as all below, where they are too few to say."
    )
    same_data: bool | None = Field(None, description="Whether all are on the same data set.")
    balanced_accuracy: float | None = None
    interval: tuple[float, float] | None = Field(None, description="Of the accuracy.")
    seconds: float | None = Field(None, description="Of training.")
    seconds_interval: tuple[float, float] | None = None
    probability: float | None = Field(
        None, description="That a task of their kind falls into an interval."
    )
