"""What is in a data set, what was noticed about it, and what to write to train on it."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from modkernel.data import DataPlaces, Dataset, Finding, Split, dataset_key, load_dataset
from modkernel.data.arrays import SUFFIXES as ARRAYS
from modkernel.data.pixel_cache import read_json, write_json
from modkernel.data.tables import SUFFIXES as TABLES
from modkernel.errors import DataError
from modkernel.flows.labels.images import label_images
from modkernel.plan import check_hidden
from modkernel.spec import DatasetSpec, HiddenSpec, Spec

KINDS = {
    "arrays": (ARRAYS, "an archive of arrays"),
    "table": (TABLES, "a table"),
}
"""How names of files end, and what they are in words, by data set."""
ARROW_FILES = ("dataset_info.json", "dataset_dict.json")
"""Files that a folder of Hugging Face's `datasets` has."""
SHOWN = 6
"""Examples of each class that are shown."""
MOST_SHOWN = 400
"""Examples that are shown in all: the page has to open."""


class ClassCounts(Spec):
    """Examples of one class in each part; the name is None for a set without labels."""

    name: str | None
    train: int
    validation: int
    test: int


class Example(Spec):
    """An example that is shown: its name, and an image as `data:image/…` or numbers as text."""

    id: str
    shown: str


class DataLook(Spec):
    """One look at a data set."""

    what: str
    """Kind of data set, in words."""
    dataset: DatasetSpec
    fingerprint: str
    example: str
    """Shape and type of one example, in words."""
    counts: tuple[ClassCounts, ...]
    n_train: int
    n_validation: int
    n_test: int
    n_borrowed: int
    findings: tuple[Finding, ...]
    examples: tuple[tuple[Example, ...], ...]
    """Of each class; empty where there are too many classes."""

    @property
    def block(self) -> str:
        """The data set as YAML, to be pasted into a spec file."""
        fields = self.dataset.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        if self.dataset.groups is not None:
            fields["groups"] = {name: list(names) for name, names in self.dataset.groups.items()}
        block = {"dataset": {"name": self.dataset.name, **fields}}
        return yaml.safe_dump(block, sort_keys=False, allow_unicode=True, width=10_000)


def guess(path: Path) -> tuple[dict[str, str], str]:
    """The fields of a data set at a path, and its kind in words.

    Raises:
        DataError: nothing is there, or something that is no data set.
    """
    if path.is_dir():
        if any((path / name).exists() for name in ARROW_FILES):
            name, what = "huggingface", "a folder of Hugging Face's 'datasets'"
        else:
            name, what = "image_folder", "an image folder"
    elif not path.exists():
        raise DataError(f"There is nothing at {path}: give a folder of images, or a file of data.")
    else:
        kinds = (
            (name, what) for name, (ends, what) in KINDS.items() if path.name.lower().endswith(ends)
        )
        name, what = next(kinds, ("", ""))
        if not name:
            known = ", ".join(end for ends, _ in KINDS.values() for end in ends)
            raise DataError(
                f"{path} is no data set that can be read: give a folder of images, a file of type "
                f"{known}, or a spec file (.yaml) with a dataset."
            )
    return {"name": name, "path": str(path.resolve())}, what


def look(spec: DatasetSpec, where: DataPlaces, what: str) -> DataLook:
    """Load a data set as training would, and describe it.

    A look is kept in the cache as long as the set's files are as they were.

    Args:
        spec: which data set.
        where: the data root and the cache.
        what: its kind in words.

    Raises:
        DataError, PairError: training would be refused, see `load_dataset` and `check_hidden`.
    """
    key = dataset_key(spec, where)
    kept = where.cache / "looks" / f"{key}.json"
    if key is not None and (known := _read(kept)) is not None:
        return known.changed(what=what)
    data = load_dataset(spec, where)
    info = data.info()
    if info.labelled:
        check_hidden((HiddenSpec(),), info, on_pairs=False)
    found = DataLook(
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
        examples=_shown(spec, data),
    )
    if key is not None:
        write_json(kept, found.model_dump(mode="json"))
    return found


def _read(path: Path) -> DataLook | None:
    content = read_json(path)
    try:
        return None if content is None else DataLook.model_validate(content)
    except ValidationError:
        return None


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


def _shown(spec: DatasetSpec, data: Dataset) -> tuple[tuple[Example, ...], ...]:
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
    texts = iter(label_images(spec, data.train, torch.cat(rows), data.preprocessing.reading))
    return tuple(
        tuple(Example(id=data.train.ids[row], shown=next(texts)) for row in found.tolist())
        for found in rows
    )


def _evenly(rows: Tensor, count: int) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count).round().long()]
