"""Pairs and batches that cannot be, and what their errors say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modkernel.errors import PairError
from modkernel.pairs.source import PairLabels, PairSource
from tests.modkernel.test_pairs import SOURCES, listed, seeded

BAD_LISTS = {
    "self": ([0, 1], [1, 1], [1, 0], r"Pair 1, \(1, 1\) .* with itself"),
    "too-large": ([0, 2], [1, 5], [1, 0], "Pair 1, .* outside the examples 0 to 4"),
    "negative": ([0, -1], [1, 2], [1, 0], "Pair 1, .* outside the examples 0 to 4"),
    "label": ([0, 1], [1, 2], [1, 2], "Pair 1, .* neither 0"),
    "lengths": ([0, 1], [1], [1, 0], "three lists of one length"),
    "conflict": ([0, 3, 1], [1, 2, 0], [1, 0, 0], "examples 0 and 1 is listed both"),
}


@pytest.mark.parametrize(("i", "j", "same", "message"), BAD_LISTS.values(), ids=BAD_LISTS)
@pytest.mark.parametrize(
    "make", [PairLabels.from_pairs, PairSource.from_pairs], ids=["labels", "source"]
)
def test_bad_lists_are_refused(make, i, j, same, message: str) -> None:
    with pytest.raises(PairError, match=message):
        make(5, torch.tensor(i), torch.tensor(j), torch.tensor(same))


def test_examples_are_named_by_whole_numbers() -> None:
    with pytest.raises(PairError, match="whole numbers"):
        PairSource.from_pairs(3, torch.tensor([0.0]), torch.tensor([1]), torch.tensor([1]))


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(PairError, match="empty"):
        PairSource.from_pairs(3, *listed({}))


BAD_LABELS = {
    "unlabelled": torch.tensor([0, -1]),
    "float": torch.tensor([0.0, 1.0]),
    "one-hot": torch.eye(2, dtype=torch.int64),
}


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
@pytest.mark.parametrize(
    "make", [PairLabels.from_classes, PairSource.from_classes], ids=["labels", "source"]
)
def test_bad_class_labels_are_refused(make, labels: Tensor) -> None:
    with pytest.raises(PairError, match="Class labels are whole numbers of 0 or more"):
        make(labels)


def test_check_refuses_what_nothing_can_be_trained_on() -> None:
    SOURCES["classes"].check()
    SOURCES["all-different"].check(needs_same=False)
    with pytest.raises(PairError, match="of the same class"):
        SOURCES["all-different"].check()
    with pytest.raises(PairError, match="of the same class"):
        PairSource.from_classes(torch.arange(4)).check()
    for needs_same in (True, False):
        with pytest.raises(PairError, match="two classes at least"):
            SOURCES["all-same"].check(needs_same)
        with pytest.raises(PairError, match="two classes at least"):
            PairSource.from_classes(torch.zeros(4, dtype=torch.int64)).check(needs_same)


@pytest.mark.parametrize("index", [-1, 200])
@pytest.mark.parametrize("name", ["classes", "medium"])
def test_batches_of_other_examples_are_refused(name: str, index: int) -> None:
    with pytest.raises(PairError, match="0 to 199"):
        SOURCES[name].for_batch(torch.tensor([0, index]))


def test_batches_too_small_for_both_kinds_are_refused() -> None:
    with pytest.raises(PairError, match="at least 4"):
        SOURCES["medium"].batches(3, seeded())
