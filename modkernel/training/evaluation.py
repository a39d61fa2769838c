"""Accuracy of a classifier: in all, by class, and who is taken for whom."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modkernel.data.sources import ExampleSource
from modkernel.errors import DataError
from modkernel.features.sources import in_order
from modkernel.spec import Spec
from modkernel.system.precision import Arithmetic
from modkernel.training.report import OutputEvaluation


class Evaluation(Spec):
    """Accuracy in [0, 1] and the confusion matrix."""

    accuracy: float
    confusion: tuple[tuple[int, ...], ...]
    """[true class][predicted class], counts."""
    per_class: tuple[float | None, ...]
    """Accuracy by true class; none where there is no example of it."""


def confusion_matrix(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts [C, C] by true class (row) and predicted class (column).

    Args:
        truth: int64 [N].
        predicted: int64 [N].
        classes: C.
    """
    cells = truth.cpu() * classes + predicted.cpu()
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


def evaluation_from(confusion: Tensor) -> Evaluation:
    """Accuracies from a confusion matrix [C, C].

    Raises:
        DataError: it counts no example.
    """
    rows = confusion.tolist()
    total = sum(map(sum, rows))
    if total == 0:
        raise DataError("There is no labelled example to evaluate on: give a test part.")
    right = [row[index] for index, row in enumerate(rows)]
    return Evaluation(
        accuracy=sum(right) / total,
        confusion=tuple(map(tuple, rows)),
        per_class=tuple(
            hits / sum(row) if sum(row) else None for hits, row in zip(right, rows, strict=True)
        ),
    )


def single_evaluation(evaluation: Evaluation, labels: int) -> OutputEvaluation:
    """A classifier's evaluation as that of one draw of all labels.

    Args:
        evaluation: its accuracy.
        labels: how many it was trained on.
    """
    return OutputEvaluation(
        accuracy=evaluation.accuracy,
        accuracy_all_labels=evaluation.accuracy,
        labels=labels,
        draws=1,
        accuracy_mean=evaluation.accuracy,
        accuracy_min=evaluation.accuracy,
        accuracy_max=evaluation.accuracy,
        confusion=evaluation.confusion,
        per_class=evaluation.per_class,
    )


@torch.no_grad()
def evaluate(
    network: nn.Module | Callable[[Tensor], Tensor],
    examples: ExampleSource,
    labels: Tensor,
    arithmetic: Arithmetic,
) -> Evaluation:
    """Evaluate a classifier.

    Args:
        network: raw batches [B, ...] -> logits [B, C], in eval mode and on the device.
        examples: N raw examples.
        labels: int64 [N].
        arithmetic: device and number format.

    Raises:
        DataError: no example, or another number of labels than of examples.
    """
    if len(labels) != len(examples) or not len(labels):
        raise DataError(
            f"Evaluation needs as many labels as examples and at least one: "
            f"got {len(labels)} labels for {len(examples)} examples."
        )
    predicted = []
    classes = 0
    for raw in examples.batches(in_order(len(examples)), arithmetic.device):
        with arithmetic.autocast():
            logits = network(arithmetic.arrange(raw))
        classes = logits.shape[1]
        predicted.append(logits.argmax(1))
    return evaluation_from(confusion_matrix(labels, torch.cat(predicted), classes))
