"""Pairs of examples that are known to be of the same class, or known not to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modkernel.data.csv_file import Rows, csv_rows
from modkernel.data.example_names import known_id, looks_like_id
from modkernel.errors import DataError

SAME = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""What a pair file writes in its third column, in any case, and whether it is of one class."""


@dataclass(frozen=True, eq=False)
class PairList:
    """M known pairs, each once, sorted by their examples' ids.

    Attributes:
        i: int64 [M], positions in the ids that the file was read with.
        j: int64 [M].
        same: bool [M], whether the two are of the same class.
        fingerprint: SHA-256 over the sorted pairs of ids; neither the order of the file's rows,
            nor the order within a pair, nor repetition, nor the file's format or place matters.
        left_out: number of listed pairs that name a held-out example.
    """

    i: Tensor
    j: Tensor
    same: Tensor
    fingerprint: str
    left_out: int = 0


def read_pairs(
    path: Path | str,
    ids: Sequence[str],
    root: Path | str | None = None,
    held_out: Sequence[str] = (),
) -> PairList:
    """Read a CSV or Parquet file of pairs: example, example, 1 (same class) or 0 (different).

    A CSV file has commas, tabs or semicolons, and may have a header, of any three names. An
    example is named by its id (see `Split.ids`); an image also by its absolute path below `root`.
    Pass the ids of `Dataset.training_part()`, and the ids of the
    test split as held out: a list that was made without knowing the split names some of them, and
    those pairs are left out, since an evaluation must not see what was trained on.

    Args:
        path: the file; `.parquet` is read as Parquet by its first three columns, others as CSV.
        ids: ids that may be named.
        root: the image folder's path, for absolute paths.
        held_out: ids of examples that are not trained on.

    Raises:
        DataError: the file cannot be read, has no pairs to train on, or has a row that is wrong:
            unknown id, not three fields, neither 0 nor 1, an example with itself, or a pair that
            an earlier row gives the other value. The message names the row, counted from 1.
    """
    path, place = Path(path), {name: position for position, name in enumerate(ids)}
    pairs = _given_pairs(path, ids, root, held_out)
    trained = sorted(
        (first, second, same)
        for (first, second), same in pairs.items()
        if first in place and second in place
    )
    if not trained:
        raise DataError(
            f"Every pair of {path} names an example of the test part, which is never trained on: "
            "add pairs of other examples, or set a smaller dataset.test_fraction."
        )
    return PairList(
        i=torch.tensor([place[first] for first, _, _ in trained]),
        j=torch.tensor([place[second] for _, second, _ in trained]),
        same=torch.tensor([same for _, _, same in trained]),
        fingerprint=hashlib.sha256(json.dumps(trained).encode()).hexdigest(),
        left_out=len(pairs) - len(trained),
    )


def _given_pairs(
    path: Path, ids: Sequence[str], root: Path | str | None, held_out: Sequence[str]
) -> dict[tuple[str, str], bool]:
    """Whether the two are of one class, by their ids in alphabetical order."""
    known = set(ids) | set(held_out)
    folder = None if root is None else Path(root)
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path, known)
    pairs: dict[tuple[str, str], tuple[bool, int]] = {}
    for number, fields in rows:
        if len(fields) != 3:
            raise DataError(
                f"{path}, row {number}, has {len(fields)} field(s): write example, example, 0 or "
                "1, with commas (or tabs, or semicolons), and quote what holds one itself."
            )
        first, second = (known_id(name, known, folder, path, number, ids[0]) for name in fields[:2])
        same = SAME.get(fields[2].lower())
        if same is None:
            raise DataError(
                f"{path}, row {number}, has '{fields[2]}' as its third field: write 1 for the "
                "same class or 0 for different ones."
            )
        if first == second:
            raise DataError(f"{path}, row {number}, pairs '{first}' with itself: remove the row.")
        key = (first, second) if first < second else (second, first)
        earlier = pairs.setdefault(key, (same, number))
        if earlier[0] != same:
            raise DataError(
                f"{path}, row {number}, contradicts row {earlier[1]} on '{first}' and '{second}': "
                "keep one of them."
            )
    if not pairs:
        raise DataError(f"{path} has no pairs: add rows of example, example, 0 or 1.")
    return {key: same for key, (same, _) in pairs.items()}


def _csv_rows(path: Path, known: Set[str]) -> Rows:
    rows = csv_rows(path, "pair file", 3)
    return rows[1:] if rows and _is_header(rows[0][1], known) else rows


def _is_header(fields: list[str], known: Set[str]) -> bool:
    """Whether a first row names columns: no example in it, and no value as its third field."""
    if len(fields) != 3 or any(field in known for field in fields[:2]):
        return False
    if fields[2].lower() in SAME or any(looks_like_id(field, known) for field in fields[:2]):
        return False
    try:
        float(fields[2])
    except ValueError:
        return True
    return False


def _parquet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(
            f"Reading {path} needs the package 'pyarrow': pip install it, or save the pairs as CSV."
        ) from None
    try:
        columns: Iterable[list[Any]] = [
            column.to_pylist() for column in parquet.read_table(path).columns[:3]
        ]
    except (OSError, ArrowException) as error:
        raise DataError(f"Cannot read pair file {path} as Parquet: {error}.") from None
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield number, [str(value) for value in values]
