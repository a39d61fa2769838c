"""What becomes of a data set's examples, worked out by hand from what the documentation says."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from modkernel.data import DataPlaces, Dataset, load_dataset
from modkernel.errors import ModkernelError
from modkernel.spec import DatasetSpec

SETTINGS = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
"""Of property tests."""
FRACTIONS = {"test": 0.2, "validation": 0.1}
"""Shares that are split off by default, in the order in which that is decided."""


@dataclass(frozen=True)
class Example:
    """One example: its bytes as the source has them, its class, and its own part."""

    content: bytes
    label: str | None
    part: str = "train"


def part_of(content: bytes, labelled: bool, own: Iterable[str]) -> str:
    """The part of an example of the training part: of its own content alone."""
    for part, fraction in FRACTIONS.items():
        if part in own or (part == "test" and not labelled):
            continue
        start = f"split:0:{part}:".encode()
        number = hashlib.sha256(start + hashlib.sha256(content).digest()).digest()[:8]
        if (int.from_bytes(number) >> 11) / 2**53 < fraction:
            return part
    return "train"


def parts_of(examples: Mapping[str, Example], labelled: bool) -> dict[str, str]:
    """The part of each example, by its id."""
    own = {example.part for example in examples.values()}
    return {
        name: part_of(each.content, labelled, own) if each.part == "train" else each.part
        for name, each in examples.items()
    }


def reasons_to_refuse(examples: Mapping[str, Example], labelled: bool) -> list[str]:
    """Why such examples cannot be trained on, if they cannot."""
    parts = parts_of(examples, labelled)
    source = [each for each in examples.values() if each.part == "train"]
    trained = [each for name, each in examples.items() if parts[name] == "train"]
    classes = {each.label for each in source}
    reasons = []
    if not trained:
        reasons.append("nothing to train on")
    if any(len(each) > 1 and len({e.content for e in each}) == 1 for each in (source, trained)):
        reasons.append("all training examples are equal")
    if labelled:
        if len(classes) < 2:
            reasons.append("fewer than two classes")
        if {each.label for each in examples.values()} - classes:
            reasons.append("a class that the training part has not")
        if classes - {each.label for each in trained}:
            reasons.append("a class without a training example")
        validated = {each.label for each in examples.values() if each.part == "validation"}
        if len(validated) == 1:
            reasons.append("a validation part of one class")
    return reasons


def read(spec: DatasetSpec, limit: int | None = None) -> Dataset | str:
    """The data set; or its refusal, one sentence in one line."""
    with tempfile.TemporaryDirectory() as temporary:
        places = DataPlaces(Path(temporary), Path(temporary), download=False)
        try:
            return load_dataset(spec, places, limit)
        except ModkernelError as error:
            refusal = str(error)
    assert len(refusal.strip().splitlines()) == 1
    return refusal


def check_read(data: Dataset, examples: Mapping[str, Example], labelled: bool) -> None:
    """Check that each example is there once, in its part and with its class."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    found: dict[str, tuple[str, str | None]] = {}
    for part, split in parts.items():
        labels = [None] * len(split) if split.labels is None else split.labels.tolist()
        assert len(split.examples) == len(split)
        for name, label in zip(split.ids, labels, strict=True):
            assert name not in found
            found[name] = (part, None if label is None else data.classes[label])
    expected = parts_of(examples, labelled)
    assert found == {name: (expected[name], each.label) for name, each in examples.items()}


def told(data: Dataset, *kinds: str) -> int:
    return sum(finding.count for finding in data.findings if finding.kind in kinds)


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The usual value most times: one defect alone shows more than many at once."""
    return st.integers(0, 5).flatmap(lambda k: st.just(usual) if k else st.sampled_from(others))
