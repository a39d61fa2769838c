"""The pool of a set that is given as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from modkernel.data.array_examples import Array, as_examples, to_numpy
from modkernel.data.array_labels import (
    Labels,
    class_names,
    label_values,
    negative_labels,
    numbered,
)
from modkernel.data.findings import Finding
from modkernel.data.pool import Pool
from modkernel.data.rounded import rounded_findings
from modkernel.errors import ClassError, DataError
from modkernel.spec.shorthand import composed

PARTS = {"train": "", "val": "_val", "test": "_test"}
"""What the names of a part's arrays end in."""


class Part(NamedTuple):
    """Examples x and their labels y, or None; see `make_pool`."""

    x: Array
    y: Labels | None


def make_pool(
    what: str,
    parts: Mapping[str, Part],
    classes: tuple[str, ...] = (),
    unlabelled: str | None = None,
    findings: tuple[Finding, ...] = (),
    columns: tuple[str, ...] = (),
) -> Pool:
    """Check arrays and bring them to one form; `what` names them in errors.

    Args:
        what: where the arrays come from.
        parts: 'train', perhaps 'val' and 'test'; x as `as_examples` takes them, y [N] integers or
            strings, for all parts or for none. An empty string is no label.
        classes: names that integer labels are positions in; by default the training part's values.
        unlabelled: the label, as text, that stands for none.
        findings: what was noticed already.
        columns: names of the columns of vectors, where they have names.

    Raises:
        DataError: wrong types or shapes, lengths that differ, or values that are not allowed.
        ClassError: a label outside the classes, or a class that is named twice.
    """
    parts = {name: parts[name] for name in PARTS if name in parts}
    x_names = {name: f"x{PARTS[name]} of {what}" for name in parts}
    given = {x_names[name]: to_numpy(part.x, x_names[name]) for name, part in parts.items()}
    tensors, noticed = as_examples(given)
    noticed += rounded_findings(given[x_names["train"]], columns)
    examples = dict(zip(parts, tensors, strict=True))
    train = examples["train"]
    for name, tensor in examples.items():
        if tensor.shape[1:] != train.shape[1:]:
            raise DataError(
                f"x and x{PARTS[name]} of {what} have examples of different shapes, "
                f"{list(train.shape[1:])} and {list(tensor.shape[1:])}: give both the same shape."
            )
    if len({part.y is None for part in parts.values()}) > 1:
        raise DataError(
            f"{what} must have labels for all of its parts or for none: give y with x, y_val with "
            "x_val, and y_test with x_test."
        )
    labels, names = None, tuple[str, ...]()
    if parts["train"].y is not None:
        classes = tuple(map(composed, classes))
        if len(set(classes)) < len(classes):
            raise ClassError(f"{what} names a class twice: give each class a name of its own.")
        values = {
            name: label_values(part.y, f"y{PARTS[name]} of {what}", len(examples[name]))
            for name, part in parts.items()
            if part.y is not None
        }
        names = classes or class_names(values["train"], unlabelled)
        numbers = [
            numbered(found, names, bool(classes), unlabelled, f"y{PARTS[name]} of {what}")
            for name, found in values.items()
        ]
        labels = torch.cat(numbers)
        noticed += negative_labels(values["train"], unlabelled, what)
    starts, count = {}, 0
    for name, tensor in examples.items():
        starts[name], count = count, count + len(tensor)
    rows = {name: torch.arange(len(part)) + starts[name] for name, part in examples.items()}
    return Pool(
        classes=names,
        ids=[
            str(i) if name == "train" else f"{name}/{i}"
            for name, tensor in examples.items()
            for i in range(len(tensor))
        ],
        labels=labels,
        examples=train if len(parts) == 1 else torch.cat(tensors),
        train=rows["train"],
        validation=rows.get("val"),
        test=rows.get("test"),
        findings=findings + noticed,
        columns=columns,
    )
