"""What a loaded data set is: its splits and its summary."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modkernel.data.findings import Finding
from modkernel.data.pixel_cache import array_bytes
from modkernel.data.sources import RawExamples, join_sources, pick_from
from modkernel.spec import Preprocessing, Spec

TRAINING_PART = "train and validation"
"""Name that the feature cache has for the examples of `Dataset.training_part`."""
VALIDATION_PART = "validated on"
"""Name that the feature cache has for the examples of `Dataset.validation_part`."""


@dataclass(frozen=True)
class Split:
    """Some examples of a data set.

    Attributes:
        ids: one name per example, unique in the whole data set. An image folder's are paths
            relative to the folder, with '/'. Elsewhere they are '0', '1', … in the order of the
            original training part, before classes are chosen and before it is split; the examples
            of a validation or test part of its own are 'val/0', … and 'test/0', ….
        labels: int64 [N], indices into the data set's classes; None if it has no labels.
        examples: the raw examples.
        digests: int64 [N], the first eight bytes of SHA-256 of each example as its source has it;
            None where that is not known.
    """

    ids: Sequence[str]
    labels: Tensor | None
    examples: RawExamples
    digests: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Dataset:
    """A loaded data set; `fingerprint` is SHA-256 over its whole content, as hexadecimal digits.

    `classes` is empty where there are no labels. `findings` are what a person should know of it.
    `borrowed` are positions in `train`, int64: see `validation_part`. `unlabelled` are further
    examples of the training part, without a label where others have one, if they were asked for.
    """

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    preprocessing: Preprocessing
    train: Split
    validation: Split
    test: Split
    findings: tuple[Finding, ...] = ()
    borrowed: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    unlabelled: Split | None = None

    @property
    def unlabelled_fingerprint(self) -> str | None:
        """SHA-256 over what tells the unlabelled examples apart; none where there are none."""
        if self.unlabelled is None or self.unlabelled.digests is None:
            return None
        return hashlib.sha256(array_bytes(self.unlabelled.digests)).hexdigest()

    def info(self) -> DatasetInfo:
        """The data set without its examples."""
        counts = None
        if self.train.labels is not None:
            counts = torch.bincount(self.train.labels, minlength=len(self.classes))
        return DatasetInfo(
            name=self.name,
            classes=self.classes,
            fingerprint=self.fingerprint,
            preprocessing=self.preprocessing,
            train_counts=None if counts is None else tuple(counts.tolist()),
            n_train=len(self.train),
            n_validation=len(self.validation),
            n_test=len(self.test),
            n_borrowed=len(self.borrowed),
            labelled=counts is not None,
            findings=self.findings,
        )

    def training_part(self) -> Split:
        """The training split followed by the validation split.

        A pair file may name any example of the training part, so training on pairs takes this
        split: give its `ids` to `read_pairs`, then split the pairs, not the examples.
        """
        return _joined(self.train, self.validation)

    def validation_part(self) -> Split:
        """What is validated on: the validation split, then the training examples it borrows.

        Of a class with fewer than two validation examples of its own, training examples are
        validated on as well as trained on, until there are two: one alone makes no pair. Only sets
        with few examples have such classes, and a finding says so.
        """
        if not len(self.borrowed):
            return self.validation
        rows = self.borrowed
        train = self.train
        lent = Split(
            ids=[train.ids[row] for row in rows.tolist()],
            labels=None if train.labels is None else train.labels[rows],
            examples=pick_from(train.examples, rows),
            digests=None if train.digests is None else train.digests[rows],
        )
        return _joined(self.validation, lent)


def _joined(first: Split, second: Split) -> Split:
    return Split(
        ids=[*first.ids, *second.ids],
        labels=_both(first.labels, second.labels),
        examples=join_sources(first.examples, second.examples),
        digests=_both(first.digests, second.digests),
    )


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    known = [each for each in (first, second) if each is not None]
    return torch.cat(known) if known else None


class DatasetInfo(Spec):
    """What a plan needs to know of a data set, without its examples.

    `train_counts` has the number of training examples per class, None without labels. `n_borrowed`
    is how many of the training examples are validated on as well.
    """

    name: str
    classes: tuple[str, ...]
    fingerprint: str
    preprocessing: Preprocessing
    train_counts: tuple[int, ...] | None
    n_train: int
    n_validation: int
    n_test: int
    labelled: bool
    n_borrowed: int = 0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class RawData:
    """What a loader of your own returns: `function(spec: DatasetSpec) -> RawData`.

    It may also return a data set as torchvision's (a length, items (image or array, label), perhaps
    `classes`), a pair (train, test) of them, or a dict with 'train', 'validation' and 'test'.

    Attributes:
        x_train: float [N, d] vectors, or uint8 images [N, H, W], [N, C, H, W] or [N, H, W, C].
        y_train: [N], int positions in `classes` or strings out of it; None without labels.
        classes: names of the classes, in order; empty without labels.
        x_test: like `x_train`; without it a test split is taken from the training part.
        y_test: like `y_train`.
        x_val: like `x_train`; without it a validation split is taken from the training part.
        y_val: like `y_train`.
    """

    x_train: np.ndarray | Tensor
    y_train: np.ndarray | Tensor | Sequence[str] | None
    classes: tuple[str, ...]
    x_test: np.ndarray | Tensor | None = None
    y_test: np.ndarray | Tensor | Sequence[str] | None = None
    x_val: np.ndarray | Tensor | None = None
    y_val: np.ndarray | Tensor | Sequence[str] | None = None
