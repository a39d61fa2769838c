"""What training leaves besides weights: frozen, JSON-clean records."""

from __future__ import annotations

from typing import Any

from modkernel.spec import Spec


class EpochLine(Spec):
    """One epoch of training."""

    epoch: int
    """Counted from 1."""
    objective: float
    """Mean over the steps of what is maximised: a proxy objective, or minus the loss."""
    validation: float | None
    """The same on the validation part (a baseline: its accuracy); none for an output module."""
    learning_rate: float
    """At the last step of the epoch."""
    seconds: float

    def event(self, epochs: int) -> dict[str, Any]:
        """The line as a progress event."""
        return {"event": "epoch", "epochs": epochs, **self.model_dump(mode="json")}


class OutputEvaluation(Spec):
    """Accuracy on the test part, in [0, 1], of an output module and of all its label draws."""

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
    confusion: tuple[tuple[int, ...], ...]
    """[true class][predicted class], counts, of the stored output module."""
    per_class: tuple[float | None, ...]
    """Accuracy by true class; none where the test part has no example of it."""
    left_out: int = 0
    """Test examples that modules below had been trained or validated on; they are not in this."""
    seen: int = 0
    """Such examples that are in this, since there are no others."""


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
    """That computed it on a CPU, whose weights depend on their number; none for a GPU."""
    examples: int
    """Training examples (an output module: labelled ones)."""
    parameters: int
    peak_memory_bytes: int | None = None
    """Of the training process, where one was started for it."""
    evaluation: OutputEvaluation | None = None
