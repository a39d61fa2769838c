"""Accuracy of a classifier: in all, balanced, by class, and who is taken for whom."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modkernel.data.sources import ExampleSource
from modkernel.errors import DataError
from modkernel.features.sources import in_order
from modkernel.spec import Spec
from modkernel.system.precision import Arithmetic
from modkernel.training.report import ClassRecall, OutputEvaluation


class Evaluation(Spec):
    """Accuracy in [0, 1] and the confusion matrix."""

    accuracy: float
    balanced_accuracy: float
    """Mean over the classes that have examples of each one's accuracy."""
    worst_class: int
    """Of least accuracy among those that have examples; the first of equals."""
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
    right, sizes = confusion.diagonal().double().cpu(), confusion.sum(1).double().cpu()
    tested = sizes > 0
    if not bool(tested.any()):
        raise DataError("There is no labelled example to evaluate on: give a test part.")
    shares = right / sizes  # nan without an example.
    return Evaluation(
        accuracy=float(right.sum() / sizes.sum()),
        balanced_accuracy=float(shares[tested].mean()),
        worst_class=int(shares.nan_to_num(nan=2).argmin()),
        confusion=tuple(map(tuple, confusion.tolist())),
        per_class=tuple(
            share if known else None
            for share, known in zip(shares.tolist(), tested.tolist(), strict=True)
        ),
    )


def output_evaluation(
    draws: Sequence[Tensor], all_labels: Tensor, labels: int, classes: Sequence[str]
) -> OutputEvaluation:
    """Evaluation of an output module, from the confusion matrices of its label draws.

    Args:
        draws: [C, C] of each draw; that of the stored module is first.
        all_labels: [C, C] of a module trained in the same way on every label.
        labels: how many one draw has.
        classes: C names.

    Raises:
        DataError: there is no test example.
    """
    found = [evaluation_from(confusion) for confusion in draws]
    stored, reference = found[0], evaluation_from(all_labels)
    accuracies = [one.accuracy for one in found]
    balanced = [one.balanced_accuracy for one in found]
    return OutputEvaluation(
        accuracy=stored.accuracy,
        accuracy_all_labels=reference.accuracy,
        labels=labels,
        draws=len(found),
        accuracy_mean=statistics.mean(accuracies),  # Exact: never beyond least or most.
        accuracy_min=min(accuracies),
        accuracy_max=max(accuracies),
        balanced_accuracy=stored.balanced_accuracy,
        balanced_accuracy_all_labels=reference.balanced_accuracy,
        balanced_accuracy_mean=statistics.mean(balanced),
        balanced_accuracy_min=min(balanced),
        balanced_accuracy_max=max(balanced),
        worst_class=worst_of(stored, classes),
        worst_class_all_labels=worst_of(reference, classes),
        worst_class_mean=worst_of(evaluation_from(torch.stack(tuple(draws)).sum(0)), classes),
        untested=tuple(
            name for name, share in zip(classes, stored.per_class, strict=True) if share is None
        ),
        confusion=stored.confusion,
        per_class=stored.per_class,
    )


def worst_of(evaluation: Evaluation, classes: Sequence[str]) -> ClassRecall:
    """The class of least accuracy, by its name out of `classes`."""
    return recall_of(evaluation.worst_class, evaluation.confusion, classes)


def recall_of(
    number: int, confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> ClassRecall:
    """How many examples of a class are found, of which there are some."""
    right, examples = confusion[number][number], sum(confusion[number])
    return ClassRecall(
        name=classes[number], accuracy=right / examples, right=right, examples=examples
    )


def single_evaluation(
    evaluation: Evaluation, labels: int, classes: Sequence[str]
) -> OutputEvaluation:
    """A classifier's evaluation as that of one draw of all labels.

    Args:
        evaluation: its accuracy.
        labels: how many it was trained on.
        classes: their names.
    """
    confusion = torch.tensor(evaluation.confusion)
    return output_evaluation([confusion], confusion, labels, classes)


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
