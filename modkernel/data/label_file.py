"""Labels of some examples, given by hand in a CSV file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data.class_names import listed, refuse_control
from modkernel.data.csv_file import Rows, csv_rows
from modkernel.data.example_names import known_id, looks_like_id
from modkernel.errors import ClassError, DataError

HEADER = ("id", "label")
"""First row of a label file."""


@dataclass(frozen=True, eq=False)
class LabelList:
    """Labels of n examples, each once, sorted by the examples' ids.

    Attributes:
        rows: int64 [n], positions in the ids that the file was read with.
        labels: int64 [n], indices into `classes`.
        classes: those of the data set, or of the file where the set has none (sorted by name).
        fingerprint: SHA-256 over the file's sorted ids and class names; neither the order of its
            rows, nor repetition, nor empty cells, nor its place matters.
        empty: number of examples that the file names but gives no label.
        own: number of labels among these that the data set has itself.
    """

    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    fingerprint: str
    empty: int = 0
    own: int = 0


def read_labels(
    path: Path | str,
    ids: Sequence[str],
    classes: Sequence[str],
    root: Path | str | None = None,
    held_out: Sequence[str] = (),
    own: Tensor | None = None,
) -> LabelList:
    """Read a CSV file of labels: example, class name; a cell that is left empty is no label.

    The separator is a comma, tab or semicolon. The file may have a header, of any two names. An
    example is named by its id (see `Split.ids`); an image
    also by its absolute path below `root`. Pass the ids of `Dataset.training_part()`, and those
    of the test split as held out.

    Args:
        path: the file.
        ids: ids that may be named.
        classes: of the data set; empty if it has no labels: then they are those of the file.
        root: the image folder's path, for absolute paths.
        held_out: ids of examples that are not trained on.
        own: labels that the data set has of `ids`, int64 [N], -1 for none: they count beside the
            file's, which hold where both have one.

    Raises:
        DataError: the file cannot be read, has no label, or has a row that is wrong: an unknown
            id, one of the test part, not two fields, or another label than an earlier row gives.
            The message names the row, counted from 1.
        ClassError: a class that the data set does not have, a class of it without a label, fewer
            than two classes, or one whose name has control characters.
    """
    path, place = Path(path), {name: position for position, name in enumerate(ids)}
    given, named = read_named(path, ids, classes, root, held_out)
    if not given:
        raise DataError(f"{path} has no label: write a class after the id of some examples.")
    known = _own_labels(ids, classes, own) | given
    labelled = sorted(known.items())
    names = _classes(path, classes, set(known.values()))
    number_of = {name: index for index, name in enumerate(names)}
    return LabelList(
        rows=torch.tensor([place[example] for example, _ in labelled]),
        labels=torch.tensor([number_of[label] for _, label in labelled]),
        classes=names,
        fingerprint=hashlib.sha256(json.dumps(sorted(given.items())).encode()).hexdigest(),
        empty=named - len(given),
        own=len(known) - len(given),
    )


def _own_labels(ids: Sequence[str], classes: Sequence[str], own: Tensor | None) -> dict[str, str]:
    labels = [] if own is None else own.tolist()
    return {ids[row]: classes[label] for row, label in enumerate(labels) if label >= 0}


def read_named(
    path: Path,
    ids: Sequence[str],
    classes: Sequence[str],
    root: Path | str | None = None,
    held_out: Sequence[str] = (),
) -> tuple[dict[str, str], int]:
    """The class of each labelled example, by id, and how many examples the file names.

    Classes may lack in it, and it may hold no label yet; else it is as of `read_labels`.

    Raises:
        DataError, ClassError: see `read_labels`.
    """
    tested = set(held_out)
    known = set(ids) | tested
    folder = None if root is None else Path(root)
    given: dict[str, tuple[str, int]] = {}
    named: set[str] = set()
    meant = {name.strip(): name for name in classes}  # As a row's fields are read.
    rows = csv_rows(path, "label file", len(HEADER))
    if _has_header(rows, known, classes):
        rows = rows[1:]
    for number, fields in rows:
        if len(fields) != len(HEADER):
            raise DataError(
                f"{path}, row {number}, has {len(fields)} field(s): write an example's id, a comma "
                "(or tab, or semicolon) and its class, and quote what holds one itself."
            )
        example = known_id(fields[0], known, folder, path, number, ids[0])
        if example in tested:
            raise DataError(
                f"{path}, row {number}, labels '{example}', which is of the test part and never "
                "trained on: remove the row."
            )
        named.add(example)
        label = fields[1]
        if not label:
            continue
        if classes and label not in classes and (label := meant.get(label, label)) not in classes:
            raise ClassError(
                f"{path}, row {number}, has the class '{label}', which the data set does not have: "
                f"use one of {_quoted(classes)}."
            )
        earlier = given.setdefault(example, (label, number))
        if earlier[0] != label:
            raise DataError(
                f"{path}, row {number}, calls '{example}' '{label}', but row {earlier[1]} calls it "
                f"'{earlier[0]}': keep one of them."
            )
    return {example: label for example, (label, _) in given.items()}, len(named)


def blank_labels(ids: Sequence[str], given: Mapping[str, str] | None = None) -> str:
    """A label file to be filled in: labels by id that there are, and ids with an empty cell."""
    text = io.StringIO(newline="")
    rows = [HEADER, *(given or {}).items(), *((name, "") for name in ids)]
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _has_header(rows: Rows, known: Set[str], classes: Sequence[str]) -> bool:
    """Whether the first row names columns: neither an example's name nor a label is in it."""
    if not rows or len(rows[0][1]) != len(HEADER):
        return False
    name, label = rows[0][1]
    if name in known or not label:
        return False
    labels = classes or [fields[-1] for _, fields in rows[1:]]
    return name.lower() == HEADER[0] or not (
        Path(name).is_absolute() or label in labels or looks_like_id(name, known)
    )


def _classes(path: Path, classes: Sequence[str], labelled: set[str]) -> tuple[str, ...]:
    names = tuple(classes) or tuple(sorted(labelled))
    refuse_control(names, str(path))
    if len(names) < 2:
        raise ClassError(
            f"{path} has one class only, '{names[0]}': label examples of at least two classes."
        )
    missing = [name for name in names if name not in labelled]
    if missing:
        raise ClassError(
            f"{path} labels no example of class {_quoted(missing)}: label at least one of each, or "
            "leave classes out of the network (--classes with those that the file has)."
        )
    return names


def _quoted(names: Sequence[str]) -> str:
    return listed([f"'{name}'" for name in names])
