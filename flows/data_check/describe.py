"""What a loaded data set has: its counts, what was noticed, examples of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from modkernel.data import DataPlaces, Dataset, Split, load_dataset
from modkernel.data.folder import folder_source
from modkernel.data.layout import Layout
from modkernel.data.pool import Source
from modkernel.flows.data_check.look import ClassCounts, DataLook, Example
from modkernel.flows.labels.images import label_images
from modkernel.plan import check_hidden
from modkernel.spec import DatasetSpec, HiddenSpec

SHOWN = 6
"""Examples of each class that are shown."""
MOST_SHOWN = 400
"""Examples that are shown in all: the page has to open."""


def describe(spec: DatasetSpec, where: DataPlaces, what: str, files: Layout | Source) -> DataLook:
    """Load a data set as training would, and describe it.

    Args:
        spec: which data set.
        where: the data root and the cache.
        what: its kind in words.
        files: of the set, as they were found.

    Raises:
        DataError, PairError: training would be refused, see `load_dataset` and `check_hidden`.
    """
    source = folder_source(files) if isinstance(files, Layout) else files
    data = load_dataset(spec, where, source=source)
    info = data.info()
    if info.labelled:
        check_hidden((HiddenSpec(),), info)
    return DataLook(
        what=what,
        dataset=spec,
        fingerprint=data.fingerprint,
        example=_example(data),
        counts=_counts(data),
        n_train=info.n_train,
        n_validation=info.n_validation,
        n_test=info.n_test,
        n_borrowed=info.n_borrowed,
        findings=info.findings,
        examples=_shown(spec, where, data),
    )


def _example(data: Dataset) -> str:
    shape = data.preprocessing.shape
    if len(shape) == 1:
        return f"vectors of {shape[0]} numbers"
    channels, height, width = shape
    return f"{'grey' if channels == 1 else 'colour'} images of {width} x {height} pixels"


def _counts(data: Dataset) -> tuple[ClassCounts, ...]:
    parts = (data.train, data.validation, data.test)
    if data.train.labels is None:
        train, validation, test = map(len, parts)
        return (ClassCounts(name=None, train=train, validation=validation, test=test),)
    columns = (_by_class(part, len(data.classes)) for part in parts)
    return tuple(
        ClassCounts(name=name, train=train, validation=validation, test=test)
        for name, train, validation, test in zip(data.classes, *columns, strict=True)
    )


def _by_class(part: Split, classes: int) -> list[int]:
    if part.labels is None:
        return [0] * classes
    counts: list[int] = torch.bincount(part.labels, minlength=classes).tolist()
    return counts


def _shown(spec: DatasetSpec, where: DataPlaces, data: Dataset) -> tuple[tuple[Example, ...], ...]:
    """A few training examples of each class, evenly over the order of the source."""
    labels = data.train.labels
    number = max(1, len(data.classes))
    each = min(SHOWN, MOST_SHOWN // number) if labels is not None else 4 * SHOWN
    if not each:
        return ()
    of_class = [
        torch.arange(len(data.train)) if labels is None else (labels == i).nonzero()[:, 0]
        for i in range(number)
    ]
    rows = [_evenly(found, each) for found in of_class]
    at, reading = where.located(spec), data.preprocessing.reading
    texts = iter(label_images(at, data.train, torch.cat(rows), reading))
    return tuple(
        tuple(Example(id=data.train.ids[row], shown=next(texts)) for row in found.tolist())
        for found in rows
    )


def _evenly(rows: Tensor, count: int) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]
