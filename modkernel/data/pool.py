"""All examples of a data set as its source gives them, before classes are chosen and split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data.findings import Finding
from modkernel.data.layout import ListedFile


@dataclass(frozen=True)
class FileList:
    """Image files below one folder."""

    root: Path
    files: tuple[ListedFile, ...]


Unread = Tensor | FileList
"""N examples as their source has them: uint8 images [N, C, H, W], float32 vectors
[N, d], or the files of N images."""


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Some examples and their ids."""

    ids: Sequence[str]
    examples: Unread


@dataclass(frozen=True, eq=False)
class Pool:
    """All examples of a set, in the order of its source.

    Attributes:
        classes: names of the classes; empty without labels.
        ids: one name per example, unique.
        labels: int64 [N] indices into `classes`; None without labels.
        examples: N of them.
        train: int64 rows of the training part.
        validation: rows of a validation part of its own, if there is one.
        test: rows of a test part of its own, if there is one.
        findings: what was noticed while it was read.
        places: where parts of its own are, by their name ('validation', 'test'), for messages.
        columns: names of the columns of vectors, where they have names.
        unlabelled: examples of the training part that have no label, where others have one.
    """

    classes: tuple[str, ...]
    ids: Sequence[str]
    labels: Tensor | None
    examples: Unread
    train: Tensor
    validation: Tensor | None = None
    test: Tensor | None = None
    findings: tuple[Finding, ...] = ()
    columns: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    unlabelled: Unlabelled | None = None

    @property
    def rows(self) -> Tensor:
        """Rows of all parts: training, validation, test; others belong to no chosen class."""
        parts = (self.train, self.validation, self.test)
        return torch.cat([part for part in parts if part is not None])


@dataclass(frozen=True)
class Source:
    """A data set that was found and not read yet.

    Attributes:
        stamp: changes whenever the set's files do (their sizes and times); None where that
            is unknown, and then nothing about the set is cached.
        read: reads the set.
    """

    stamp: str | None
    read: Callable[[], Pool]


def take(examples: Unread, rows: Tensor) -> Unread:
    """The examples at int64 `rows`, in that order."""
    if isinstance(examples, Tensor):
        return examples[rows]
    return FileList(examples.root, tuple(examples.files[i] for i in rows.tolist()))
