"""What is in a data set, what was noticed about it, and what to write to train on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from modkernel.data import DataPlaces, Finding
from modkernel.data.cache_files import read_json, write_json
from modkernel.data.keys import key_of
from modkernel.data.layout import Layout, read_layout
from modkernel.flows.specs.data_kinds import kind_at
from modkernel.flows.specs.paths import stored_path
from modkernel.flows.specs.read import as_yaml
from modkernel.spec import DatasetSpec, Spec

if TYPE_CHECKING:
    from modkernel.data.pool import Source


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
        return as_yaml(block)


def guess(given: str, where: DataPlaces) -> tuple[dict[str, str], str]:
    """The fields of a data set at a path or under a name of data, and its kind in words.

    Raises:
        DataError: nothing is there, or something that is no data set.
    """
    name, what = kind_at(where.find(given, "PATH"))
    return {"name": name, "path": stored_path(given, Path.cwd())}, what


def look(spec: DatasetSpec, where: DataPlaces, what: str) -> DataLook:
    """Describe a data set as training would load it.

    A look is kept in the cache as long as the set's files are as they were, and a folder of images
    that was looked at is only listed: without torch, whose import takes longer than that.

    Args:
        spec: which data set.
        where: the data root and the cache.
        what: its kind in words.

    Raises:
        DataError, PairError: training would be refused, see `load_dataset` and `check_hidden`.
    """
    files = _find(where.located(spec), where)
    key = key_of(spec, files.stamp)
    kept = where.cache / "looks" / f"{key}.json"
    if key is not None and (known := _read(kept)) is not None:
        return known.changed(what=what)
    from modkernel.flows.data_check.describe import describe

    found = describe(spec, where, what, files)
    if key is not None:
        write_json(kept, found.model_dump(mode="json"))
    return found


def _find(spec: DatasetSpec, where: DataPlaces) -> Layout | Source:
    if spec.name == "image_folder" and spec.path is not None:
        return read_layout(Path(spec.path))
    from modkernel.data.load import find_dataset

    return find_dataset(spec, where)


def _read(path: Path) -> DataLook | None:
    content = read_json(path)
    try:
        return None if content is None else DataLook.model_validate(content)
    except ValidationError:
        return None
