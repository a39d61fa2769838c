"""What training leaves besides weights: frozen, JSON-clean records."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from modkernel.spec import Spec
from modkernel.training.labels_seen import NONE, labels_told

NAMED_CLASSES = 5
"""Classes that a sentence names; the others are counted."""


class PartLine(Spec):
    """One of several modules in an epoch of their training together."""

    objective: float
    validation: float


class EpochLine(Spec):
    """One epoch of training; of several modules together, the numbers are the last one's."""

    epoch: int
    """Counted from 1."""
    objective: float
    """Mean over the steps of what is maximised: a proxy objective, or minus the loss."""
    validation: float | None
    """The same on the validation part (a baseline: its accuracy); none for an output module."""
    learning_rate: float
    """At the last step of the epoch."""
    seconds: float
    parts: tuple[PartLine, ...] = Field((), exclude_if=lambda value: not value)
    """Of several modules that are trained together each one's, in order."""

    def event(self, epochs: int) -> dict[str, Any]:
        """The line as a progress event."""
        return {"event": "epoch", "epochs": epochs, **self.model_dump(mode="json")}


class ClassRecall(Spec):
    """How many of a class's test examples are found."""

    name: str
    accuracy: float
    """Share in [0, 1]."""
    right: int
    examples: int
    trained: int = Field(
        0,
        exclude_if=lambda value: not value,
        description="Of the examples, those that were trained on as well.",
    )

    @property
    def text(self) -> str:
        """The class with its numbers: 'x': 0 of 4."""
        seen = f" ({self.trained} of them trained on as well)" if self.trained else ""
        return f"'{self.name}': {self.right} of {self.examples}{seen}"


class OutputEvaluation(Spec):
    """Accuracy on the test part, in [0, 1], of an output module and of all its label draws.

    Balanced accuracy is the mean of the classes' own accuracies, whatever their numbers of
    examples; the worst class is the one of least accuracy. Both are of classes that the test part
    has examples of.
    """

    accuracy: float
    """Of the stored output module: that of the first draw."""
    accuracy_all_labels: float
    """Of an output module trained in the same way on every label."""
    labels: int
    """Labels used by one draw, over all classes."""
    draws: int
    accuracy_mean: float
    accuracy_min: float
    accuracy_max: float
    balanced_accuracy: float
    balanced_accuracy_all_labels: float
    balanced_accuracy_mean: float
    balanced_accuracy_min: float
    balanced_accuracy_max: float
    worst_class: ClassRecall
    """Of the stored output module."""
    worst_class_all_labels: ClassRecall
    worst_class_mean: ClassRecall
    """Over all draws together: its examples count once a draw."""
    untested: tuple[str, ...]
    """Classes that the test part has no example of."""
    validated: tuple[ClassRecall, ...] = ()
    """These classes on the validation part, of which some examples may have been trained on."""
    confusion: tuple[tuple[int, ...], ...]
    """[true class][predicted class], counts, of the stored output module."""
    per_class: tuple[float | None, ...]
    """Accuracy by true class; none where the test part has no example of it."""
    left_out: int = 0
    """Test examples that modules below had been trained or validated on; they are not in this."""
    seen: int = 0
    """Such examples that are in this, since there are no others."""
    hidden_saw: str | None = None
    """What labels the modules below saw, in words (`labels_seen.hidden_saw`); none of a network
    that was trained end to end, and where it was not recorded."""

    spread_over: int = Field(0, exclude_if=lambda value: not value)
    """Examples without a label that each draw's labels were spread over."""

    @property
    def labels_told(self) -> str:
        """How many labels there were, and whether that is all that the network saw."""
        return labels_told(self.labels, self.hidden_saw, self.spread_over)

    @property
    def labels_name(self) -> str:
        """The same in a few words, for a row or a bar."""
        in_all = " in all" * (self.hidden_saw == NONE)
        return f"{self.labels} labels{in_all}{', spread' * (self.spread_over > 0)}"

    @property
    def remarks(self) -> str:
        """What to know of the figures, in sentences; empty where there is nothing."""
        found = [] if self.hidden_saw is None else [f"{self.labels_told}."]
        if self.untested:
            shown = ", ".join(f"'{name}'" for name in self.untested[:NAMED_CLASSES])
            more = len(self.untested) - NAMED_CLASSES
            found.append(f"No test example of class {shown}{f' and {more} more' * (more > 0)}.")
        if self.validated:
            shown = ", ".join(one.text for one in self.validated[:NAMED_CLASSES])
            found.append(f"Found in the validation part: {shown}.")
        if self.left_out:
            found.append(
                f"{self.left_out} test examples that modules below have seen are left out."
            )
        if self.seen:
            found.append(f"Modules below have seen all {self.seen} test examples.")
        return " ".join(found)

    def metrics(self) -> dict[str, float]:
        """The numbers that evaluations are compared by, by name."""
        one = ("worst_class", "worst_class_all_labels", "worst_class_mean")
        words = ("confusion", "per_class", "untested", "validated", "hidden_saw")
        values = self.model_dump(exclude={*words, *one})
        return {
            **values,
            "worst_class_accuracy": self.worst_class.accuracy,
            "worst_class_accuracy_all_labels": self.worst_class_all_labels.accuracy,
            "worst_class_accuracy_mean": self.worst_class_mean.accuracy,
        }


class StitchFigures(Spec):
    """What a stitch is worth on examples that it was not fitted to, beside its parents.

    Accuracies in [0, 1] are of closed-form output modules on few labels, means over draws; none
    where the data have no labels.
    """

    explained: float
    """Share of the variance of UPPER's features that the stitch's have."""
    held_out: int
    """Examples that it was judged on."""
    labels_per_class: int | None = None
    draws: int | None = None
    accuracy: float | None = None
    """On the stitch."""
    lower: float | None = None
    """On LOWER alone."""
    untrained: float | None = None
    """On LOWER alone with untrained weights."""
    upper: float | None = None
    """On UPPER with its own upstream."""
    gain_error: float | None = None
    """Standard error of `accuracy` - `lower`."""
    lower_error: float | None = None
    """Standard error of `lower` - `untrained`."""
    kept: float | None = None
    """Share of what UPPER's accuracy is above chance that the stitch's is."""
    objection: str | None = None
    """Why it is not worth storing; none where it is."""

    @property
    def text(self) -> str:
        """The figures, as sentences."""
        features = f"{self.explained:.1%} of the variance of UPPER's features is explained."
        if self.accuracy is None or self.lower is None or self.upper is None:
            return f"On {self.held_out} held-out examples {features}"
        return (
            f"With {self.labels_per_class} labels per class (mean of {self.draws} draws, "
            f"{self.held_out} held-out examples) an output module reaches {self.accuracy:.1%} on "
            f"the stitch, {self.lower:.1%} on LOWER alone (standard error of the difference "
            f"{self.gain_error:.1%}), {self.untrained:.1%} on LOWER with untrained weights and "
            f"{self.upper:.1%} on UPPER with its own upstream, of which {self.kept:.1%} is kept "
            f"above chance; {features}"
        )

    def metrics(self) -> dict[str, float]:
        """The numbers that stitches are compared by, by name."""
        told = {"explained", "accuracy", "lower", "untrained", "upper", "kept"}
        values = self.model_dump(include=told)
        return {f"stitch.{name}": value for name, value in values.items() if value is not None}


class TrainReport(Spec):
    """How one module, or one baseline, was trained."""

    recipe_digest: str
    history: tuple[EpochLine, ...]
    best_epoch: int
    """The epoch whose weights were taken; 0 where a closed form left nothing to iterate."""
    seconds: float
    """Spent training over all attempts; loading data and starting a process are not in it."""
    device: str
    precision: str
    threads: int | None = None
    """That computed it on a CPU, whose weights depend on their number; none for a GPU.
    Of each process, where several devices did."""
    devices: int = 1
    """That a module was trained on together; weights depend on their number by rounding alone."""
    examples: int
    """Training examples (an output module: labelled ones)."""
    parameters: int
    peak_memory_bytes: int | None = None
    """Of the training process, where one was started for it."""
    evaluation: OutputEvaluation | None = None
    labels_told: str | None = Field(None, exclude_if=lambda value: value is None)
    """Of an output module: how many labels there were, in words (`labels_seen.labels_told`)."""
    stitch: StitchFigures | None = None
    """Of a stitch: what it is worth."""
