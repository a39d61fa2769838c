"""What labels an output module is trained on: whether there are enough, and which are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modkernel.data.dataset import DatasetInfo
from modkernel.errors import DataError, LabelBudgetError, SpecError
from modkernel.spec import OutputSpec
from modkernel.system.seeding import generator_for

SPREAD_FROM = 20_000
"""Labels at most that are spread over examples without one."""


def check_label_budget(counts: Sequence[int], classes: Sequence[str], per_class: int) -> None:
    """Check that every class has enough training examples.

    Raises:
        LabelBudgetError: some class has fewer; the message names the smallest.
    """
    fewest = min(range(len(counts)), key=lambda index: counts[index])
    if per_class > counts[fewest]:
        raise LabelBudgetError(
            f"labels_per_class is {per_class}, but class '{classes[fewest]}' has only "
            f"{counts[fewest]} training examples: ask for at most that many."
        )


def check_spreading(labels: int, examples: int) -> None:
    """Check that there are examples to spread labels over, and few labels.

    Args:
        labels: that an output module is trained on.
        examples: with and without a label that is used.

    Raises:
        SpecError: every example has a label, or there are more than `SPREAD_FROM`.
    """
    if labels >= examples:
        raise SpecError(
            "spread_labels: every training example has a label that is used, so there is none to "
            "spread labels over: set a smaller labels_per_class, give a file of fewer labels, or "
            "leave spread_labels out."
        )
    if labels > SPREAD_FROM:
        raise SpecError(
            f"spread_labels: {labels} labels are enough without it, and at most {SPREAD_FROM} are "
            "spread: set labels_per_class, or leave spread_labels out."
        )


def check_spread_output(
    output: OutputSpec, info: DatasetInfo, unlabelled: int, given: int | None
) -> None:
    """Check the same of a data set before anything is trained.

    Args:
        output: which spreads labels.
        info: the data.
        unlabelled: further training examples that have no label.
        given: labels of a file, if it is trained on one: of the validation part too.

    Raises:
        SpecError: see `check_spreading`.
    """
    examples = info.n_train + unlabelled
    if given is not None:
        check_spreading(given, examples + info.n_validation)
    elif output.labels_per_class is not None:
        check_spreading(output.labels_per_class * len(info.classes), examples)
    else:
        check_spreading(info.n_train, examples)


def draw_labels(labels: Tensor, classes: int, per_class: int, draws: int, seed: int) -> Tensor:
    """Indices [draws, classes * per_class] of examples drawn at random, `per_class` of each class.

    A draw depends on the seed and its own number alone: more draws leave the first ones as
    they were.

    Args:
        labels: int64 [N], each in [0, classes).
        classes: number of classes.
        per_class: labels per class.
        draws: number of draws.
        seed: of the draws.
    """
    members = [torch.nonzero(labels == index).flatten() for index in range(classes)]
    rows = []
    for draw in range(draws):
        generator = generator_for(seed, "labels", draw)
        picks = [m[torch.randperm(len(m), generator=generator)[:per_class]] for m in members]
        rows.append(torch.cat(picks))
    return torch.stack(rows)


def check_output(output: OutputSpec, info: DatasetInfo) -> None:
    """Check that a data set can train an output module.

    One whose test part is empty can: the module is then trained, and not evaluated.

    Raises:
        DataError: it has no class labels.
        LabelBudgetError: some class has fewer examples than labels are asked for.
        SpecError: draws of labels, and all labels are used.
    """
    if not info.labelled or info.train_counts is None:
        raise DataError(
            f"Data set '{info.name}' has no class labels, which an output module needs: set "
            "'output: null' to train the hidden modules alone, give a file of labels (those that "
            "'modkernel labels suggest' asks for), or sort the images into one folder a class."
        )
    if output.labels_per_class is not None:
        check_label_budget(info.train_counts, info.classes, output.labels_per_class)
    elif output.draws > 1:
        raise SpecError(
            f"draws is {output.draws}, and all labels are used, so there is nothing to draw: set "
            "labels_per_class, or leave draws out."
        )


def check_tested(info: DatasetInfo) -> None:
    """Check that a data set has something to test on.

    Raises:
        DataError: its test part is empty.
    """
    if not info.n_test:
        raise DataError(
            f"The test part of data set '{info.name}' has none of its "
            f"{info.n_train + info.n_validation} examples, so nothing could be tested: add "
            "examples, or set another dataset.split_seed or a larger dataset.test_fraction; a test "
            "part of the set's own needs examples of the chosen classes."
        )


def check_whole(output: OutputSpec) -> None:
    """Check that an output module can be trained on a file of labels.

    Raises:
        SpecError: it asks for a budget or draws of labels.
    """
    if output.labels_per_class is not None or output.draws > 1:
        raise SpecError(
            "A file of labels is used as a whole: leave labels_per_class and draws out, or it."
        )
