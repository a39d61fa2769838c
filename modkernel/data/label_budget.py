"""Label budgets: which examples of each class an output module is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modkernel.errors import LabelBudgetError
from modkernel.system.seeding import generator_for


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
