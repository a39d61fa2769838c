"""Image folders: one folder per class, or images without labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path

import torch

from modkernel.data.dataset import DataPlaces
from modkernel.data.images import EXTENSIONS, FileFacts, file_facts, map_files
from modkernel.data.pixel_cache import read_json, write_json
from modkernel.data.pool import FileList, ListedFile, Pool, Source
from modkernel.errors import ClassError, DataError, ImageError
from modkernel.spec import DatasetSpec, Shape

PARTS = ("train", "val", "test")
"""Folders of the parts of a set that is split already, as its author named them."""

Listing = dict[str | None, list[ListedFile]]
"""Files by class name; under None alone where the folder has images and no class folders."""


def open_folder(spec: DatasetSpec, where: DataPlaces) -> Source:
    """List the image folder at `spec.path`.

    The folder has one folder per class, or `train/`, `test/` and `val/` that each do (`test/` and
    `val/` may be missing; then they are split off). Classes are sorted by name. A folder that has
    images directly in it is a set without labels. Hidden files and files of other types are
    ignored.

    Raises:
        DataError: no folder, an unreadable or empty one, or one of another layout.
        ClassError: `val/` or `test/` has a class that `train/` has not.
    """
    if spec.path is None:
        raise DataError("Data set 'image_folder' needs a folder: set dataset.path.")
    root = Path(spec.path)
    folders, images = _entries(root)
    if "train" in folders and set(folders) <= set(PARTS) and not images:
        parts = {part: _list_part(root, Path(part)) for part in PARTS if part in folders}
    else:
        parts = {"train": _list_part(root, Path())}
    files = [found for part in parts.values() for found in part.values()]
    stamp = hashlib.sha256(json.dumps([str(root.resolve()), files]).encode()).hexdigest()
    return Source(stamp, partial(_pool, root, parts))


def read_facts(listed: FileList, cache: Path) -> list[FileFacts]:
    """Hash the files and read their headers, unless they are as an earlier call found them.

    What was found is stored in `cache` by path, size and times, so that a set is read once.

    Raises:
        ImageError: a file cannot be read or is no image; the message names it.
        SettingsError: the cache cannot be written.
    """
    name = hashlib.sha256(os.fsencode(listed.root.resolve())).hexdigest()
    manifest = cache / "manifests" / f"{name}.json"
    known = read_json(manifest)
    known = known if isinstance(known, dict) else {}
    facts = [_remembered(known, file) for file in listed.files]
    missing = [file for file, found in zip(listed.files, facts, strict=True) if found is None]
    if missing:
        fresh = dict(
            zip(
                (file.path for file in missing),
                map_files(file_facts, [listed.root / file.path for file in missing]),
                strict=True,
            )
        )
        for file in missing:
            known[file.path] = [*file[1:], *astuple(fresh[file.path])]
        write_json(manifest, known)
        facts = [found or fresh[file.path] for file, found in zip(listed.files, facts, strict=True)]
    return [found for found in facts if found is not None]


def common_shape(spec: DatasetSpec, listed: FileList, facts: list[FileFacts]) -> Shape:
    """The shape [C, H, W] that all images are brought to.

    Raises:
        DataError: the images differ in size and the spec names none.
    """
    channels = spec.channels or (1 if all(found.grey for found in facts) else 3)
    if spec.image_size is not None:
        return (channels, spec.image_size, spec.image_size)
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
        case [size, mtime, ctime, str(sha256), int(width), int(height), bool(grey)]:
            if (size, mtime, ctime) == file[1:]:
                return FileFacts(sha256, width, height, grey)
    return None


def _pool(root: Path, parts: Mapping[str, Listing]) -> Pool:
    classes = [name for name in parts["train"] if name is not None]
    for part, listing in parts.items():
        for name in listing:
            if name not in parts["train"]:
                raise ClassError(
                    f"{root / part} holds {'images without a class' if name is None else name!r}, "
                    f"which {root / 'train'} does not: it must have folders of the same names."
                )
    files: list[ListedFile] = []
    labels: list[int] = []
    rows: dict[str, torch.Tensor] = {}
    for part, listing in parts.items():
        start = len(files)
        for name, found in listing.items():
            files += found
            labels += [classes.index(name) if name is not None else -1] * len(found)
        rows[part] = torch.arange(start, len(files))
    return Pool(
        classes=tuple(classes),
        ids=[file.path for file in files],
        labels=torch.tensor(labels) if classes else None,
        examples=FileList(root, tuple(files)),
        train=rows["train"],
        validation=rows.get("val"),
        test=rows.get("test"),
    )


def _list_part(root: Path, part: Path) -> Listing:
    folder = root / part
    folders, images = _entries(folder)
    if folders and images:
        raise DataError(
            f"{folder} has both folders and images ({images[0].name}): put each image into its "
            "class's folder, or all of them straight into one folder without classes."
        )
    if images:
        return {None: _stat(root, part, images)}
    if not folders:
        raise DataError(
            f"{folder} holds no images: it needs one folder per class, with files of type "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    listing: Listing = {}
    for name in folders:
        nested, images = _entries(folder / name)
        if nested:
            raise DataError(
                f"Class folder {folder / name} has the folder '{nested[0]}' in it: put the images "
                "straight into the class's folder."
            )
        if not images:
            raise DataError(
                f"Class folder {folder / name} holds no images: add some or remove the folder."
            )
        listing[name] = _stat(root, part / name, images)
    return listing


def _entries(folder: Path) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Names of the visible folders, and the visible image files, both sorted by name."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise DataError(
            f"Cannot read image folder {folder}: {error.strerror}. Check dataset.path and its "
            "permissions."
        ) from None
    folders = [entry.name for entry in visible if entry.is_dir()]
    images = [
        entry
        for entry in visible
        if os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not entry.is_dir()
    ]
    return folders, images


def _stat(root: Path, part: Path, images: Iterable[os.DirEntry[str]]) -> list[ListedFile]:
    listed = []
    for entry in images:
        try:
            stat = entry.stat()
        except OSError as error:
            raise ImageError(f"Cannot read image {entry.path}: {error.strerror}.") from None
        path = f"{part.as_posix()}/{entry.name}" if part.parts else entry.name
        listed.append(ListedFile(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return listed
