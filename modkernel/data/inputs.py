"""What is to be predicted: image files, folders of them, arrays and tables, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data.broken import Broken
from modkernel.data.file_kinds import ARRAYS, TABLES, is_ignored, is_image, skipped_finding
from modkernel.data.findings import Finding
from modkernel.data.images import check_image_shape, decode_each
from modkernel.data.rows import read_rows
from modkernel.errors import DataError
from modkernel.spec import Preprocessing

BATCH = 256
"""Examples that are read at once."""


@dataclass(frozen=True)
class Batch:
    """Some examples to predict.

    Attributes:
        names: of each example that could be read: the file's path, or FILE:NUMBER for a row,
            counted from 0.
        examples: raw ones, in that order; none where no file could be read.
        broken: files that could not be read.
        findings: what a person should know of them.
        files: how many files they are, a part of one of rows.
    """

    names: tuple[str, ...]
    examples: Tensor | None
    broken: tuple[Broken, ...] = ()
    findings: tuple[Finding, ...] = ()
    files: float = 1.0


def find_inputs(
    paths: Sequence[Path], takes: Preprocessing
) -> tuple[list[Path], tuple[Finding, ...]]:
    """The files to predict, in order; of folders all image files in them and below, by name.

    Hidden files are left out without a word, and files of a folder that are no images are told.

    Raises:
        DataError: a folder cannot be read or has no image, or the network takes no images; or a
            table is named for one that does.
    """
    files: list[Path] = []
    skipped: dict[str, list[str]] = {}
    for path in paths:
        if not path.is_dir():
            if len(takes.shape) == 3 and path.name.lower().endswith(TABLES):
                raise DataError(
                    f"{path} is a table, and this network takes pictures {list(takes.shape)}: name "
                    "image files, or files of arrays with pictures as 'x'."
                )
            files.append(path)
            continue
        if len(takes.shape) != 3:
            raise DataError(
                f"{path} is a folder, and this network takes rows of {takes.shape[0]} numbers: "
                "name files of arrays or tables."
            )
        found = list(_images_below(path, skipped))
        if not found:
            raise DataError(f"{path} has no images, nor has any folder in it.")
        files += found
    return files, skipped_finding(skipped)


def read_inputs(files: Sequence[Path], takes: Preprocessing) -> Iterator[Batch]:
    """The examples of files, in order and a batch at a time, as a network takes them.

    Images are converted and resized as an image folder's are, also those that arrays hold.

    Args:
        files: image files and, in files of arrays, pictures as 'x'; for a network on rows, files
            of arrays or tables.
        takes: of the network.

    Raises:
        DataError: a file of arrays or a table cannot be read, or does not go with the network.
        InterfaceError: image files for a network that takes none.
    """
    waiting: list[Path] = []
    for file in files:
        if len(takes.shape) == 3 and not file.name.lower().endswith(ARRAYS):
            waiting.append(file)
            if len(waiting) == BATCH:
                yield _images(waiting, takes)
                waiting = []
            continue
        if waiting:
            yield _images(waiting, takes)
            waiting = []
        yield from _rows(file, takes)
    if waiting:
        yield _images(waiting, takes)


def _images(files: Sequence[Path], takes: Preprocessing) -> Batch:
    check_image_shape(takes.shape)
    decoded = list(zip(files, decode_each(files, takes.shape, takes.reading), strict=True))
    read = [(file, image) for file, image in decoded if isinstance(image, Tensor)]
    return Batch(
        tuple(str(file) for file, _ in read),
        torch.stack([image for _, image in read]) if read else None,
        tuple(image for _, image in decoded if isinstance(image, Broken)),
        files=len(files),
    )


def _rows(file: Path, takes: Preprocessing) -> Iterator[Batch]:
    examples, findings = read_rows(file, takes)
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        names = tuple(f"{file}:{start + i}" for i in range(len(part)))
        yield Batch(names, part, (), findings if not start else (), len(part) / len(examples))


def _images_below(folder: Path, skipped: dict[str, list[str]]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"Cannot read folder {error.filename}: {error.strerror or error}. Correct its "
            "permissions, or leave it out."
        ) from error

    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        real = {name: os.path.realpath(Path(place, name)) for name in folders}
        again = [name for name in folders if real[name] in seen]  # A link in a circle, perhaps.
        folders[:] = [name for name in folders if name not in again]
        seen |= {real[name] for name in folders}
        for name in sorted([*names, *again]):
            if is_image(name) and not is_ignored(name) and Path(place, name).is_file():
                yield Path(place, name)
            elif not is_ignored(name):
                skipped.setdefault(place, []).append(name)
