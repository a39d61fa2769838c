"""Image folders: one folder per class, or images without labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from modkernel.data.broken import Broken, unreadable
from modkernel.data.cache_files import read_json, write_json
from modkernel.data.changes import outlast_tick
from modkernel.data.file_kinds import skipped_finding
from modkernel.data.images import FileFacts, find_broken, map_files, try_facts
from modkernel.data.layout import Layout, ListedFile, read_layout
from modkernel.data.places import DataPlaces
from modkernel.data.pool import FileList, Pool, Source
from modkernel.errors import ClassError, DataError, ImageError
from modkernel.spec import DatasetSpec, Shape
from modkernel.spec.shorthand import composed

FACTS = TypeAdapter(FileFacts)
"""What reads facts that were written down."""


def open_folder(spec: DatasetSpec, where: DataPlaces) -> Source:
    """List the image folder at `spec.path`.

    The folder has one folder per class, or `train/`, `test/` and `val/` that each do (`test/` and
    `val/` may be missing; then they are split off; `valid`, `validation`, `training`, `testing` and
    capitals are the same). Classes are sorted by name. A folder that has images directly in it is
    a set without labels. Hidden files and those of operating systems are ignored; files of other
    types are told in a finding.

    Raises:
        DataError: no folder, an unreadable or empty one, or one of another layout.
        ClassError: `val/` or `test/` has a class that `train/` has not.
        ImageError: files that cannot be looked at.
    """
    if spec.path is None:
        raise DataError("Data set 'image_folder' needs a folder: set dataset.path.")
    return folder_source(read_layout(Path(spec.path), spec.unlabelled))


def folder_source(layout: Layout) -> Source:
    """An image folder that was listed already."""
    found = (files for part in layout.parts.values() for files in part.listing.values())
    outlast_tick(at for files in found for file in files for at in file[2:])
    return Source(layout.stamp, partial(_pool, layout))


def read_facts(listed: FileList, cache: Path) -> list[FileFacts]:
    """Hash the files and look at their images, unless they are as an earlier call found them.

    What was found is stored in `cache` by path, size and times, so that a set is read once.

    Raises:
        ImageError: files cannot be read or are no images; the message names them.
        SettingsError: the cache cannot be written.
    """
    name = hashlib.sha256(os.fsencode(listed.root.resolve())).hexdigest()
    manifest = cache / "manifests" / f"{name}.json"
    known = read_json(manifest)
    known = known if isinstance(known, dict) else {}
    facts = [_remembered(known, file) for file in listed.files]
    missing = [file for file, found in zip(listed.files, facts, strict=True) if found is None]
    if missing:
        looked = list(map_files(try_facts, [listed.root / file.path for file in missing]))
        fresh: dict[str, FileFacts] = {}
        broken = []
        for file, found in zip(missing, looked, strict=True):
            if isinstance(found, Broken):
                broken.append(found)
                continue
            fresh[file.path] = found
            known[file.path] = [*file[1:], FACTS.dump_python(found, exclude_defaults=True)]
        write_json(manifest, known)  # What could be read need not be read again.
        if broken:
            raise broken_images(listed, unreadable(broken))
        facts = [found or fresh[file.path] for file, found in zip(listed.files, facts, strict=True)]
    return [found for found in facts if found is not None]


def broken_images(listed: FileList, error: ImageError) -> ImageError:
    """The error for files of which some cannot be read: all are decoded to name all such.

    `error` is what was met; it stands where all can be read by now.
    """
    broken = find_broken([listed.root / file.path for file in listed.files])
    return unreadable(broken) if broken else error


def common_shape(spec: DatasetSpec, listed: FileList, facts: list[FileFacts]) -> Shape:
    """The shape [C, H, W] that all images are brought to.

    Raises:
        DataError: the images differ in size and the spec names none.
    """
    channels = spec.channels or (1 if all(found.grey for found in facts) else 3)
    sides = spec.side_lengths()
    if sides is not None:
        return (channels, *sides)
    first = facts[0]
    for file, found in zip(listed.files, facts, strict=True):
        if (found.width, found.height) != (first.width, first.height):
            raise DataError(
                f"Images differ in size: {listed.files[0].path} has {first.width} x "
                f"{first.height} pixels, {file.path} has {found.width} x {found.height}. Set "
                "dataset.image_size to resize them."
            )
    return (channels, first.height, first.width)


def _remembered(known: Mapping[str, list[object]], file: ListedFile) -> FileFacts | None:
    match known.get(file.path):
        case [size, mtime, ctime, dict(found)] if (size, mtime, ctime) == file[1:]:
            try:
                return FACTS.validate_python(found)
            except ValidationError:
                return None
    return None


def _pool(layout: Layout) -> Pool:
    root = layout.root
    trained = layout.parts["train"]
    classes = [name for name in trained.listing if name is not None]
    for part in layout.parts.values():
        for name in part.listing:
            if name not in trained.listing:
                raise ClassError(
                    f"{root / part.folder} holds "
                    f"{'images without a class' if name is None else repr(name)}, "
                    f"which {root / trained.folder} does not: it must have folders of the same "
                    "names."
                )
    files: list[ListedFile] = []
    labels: list[int] = []
    rows: dict[str, torch.Tensor] = {}
    for key, part in layout.parts.items():
        start = len(files)
        for name, found in part.listing.items():
            files += found
            labels += [classes.index(name) if name is not None else -1] * len(found)
        rows[key] = torch.arange(start, len(files))
    return Pool(
        classes=tuple(classes),
        ids=[composed(file.path) for file in files],
        labels=torch.tensor(labels) if classes else None,
        examples=FileList(root, tuple(files)),
        train=rows["train"],
        validation=rows.get("val"),
        test=rows.get("test"),
        findings=skipped_finding(layout.skipped),
        places={
            name: str(root / layout.parts[part].folder)
            for part, name in (("val", "validation"), ("test", "test"))
            if part in layout.parts
        },
    )
