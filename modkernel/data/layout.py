"""How an image folder is laid out: parts, classes, files, and what is not read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from modkernel.data.broken import Broken, unreadable
from modkernel.data.class_names import listed
from modkernel.data.file_kinds import EXTENSIONS, is_ignored, is_image, kinds_of, remedies
from modkernel.errors import DataError
from modkernel.spec.shorthand import composed

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the folders of the parts of a set that is split already, in any case of letters."""


class ListedFile(NamedTuple):
    """A file as its folder lists it: path relative to the set's folder, and what stat says."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int


Listing = dict[str | None, list[ListedFile]]
"""Files by class name; under None alone where the folder has images and no class folders."""


@dataclass(frozen=True)
class Part:
    """One part of an image folder.

    `folder` is its name below the set's folder; empty where the set has no parts.
    """

    folder: str
    listing: Listing


@dataclass(frozen=True)
class Layout:
    """An image folder by its parts: 'train', and 'val' and 'test' where they have folders.

    `skipped` has the names of files that are not read, by their folder relative to the root.
    """

    root: Path
    parts: dict[str, Part]
    skipped: dict[str, list[str]]

    @cached_property
    def stamp(self) -> str:
        """What changes whenever the folder's place does, or the names, sizes or times in it."""
        files = [found for part in self.parts.values() for found in part.listing.values()]
        seen = [str(self.root.resolve()), files, self.skipped]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


@dataclass
class _Walk:
    """What was met on the way through the folders, beside images."""

    root: Path
    skipped: dict[str, list[str]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)


@dataclass(frozen=True)
class _Entries:
    """Folders and images by their names in composed form, sorted; each with what is on the disk."""

    folders: dict[str, str]
    images: dict[str, os.DirEntry[str]]


def read_layout(root: Path, may_be_empty: str | None = None) -> Layout:
    """List the files of an image folder by part and class; names come in composed form (NFC).

    Args:
        root: the image folder.
        may_be_empty: a class's folder that need not have images: that of what has no label yet.

    Raises:
        DataError: no folder, an unreadable or empty one, one of another layout, or one with two
            names that differ in their Unicode form alone.
        ImageError: files that cannot be looked at; the message names those that cannot be read,
            too.
    """
    walk = _Walk(root)
    top = _entries(walk, Path())
    parts = _part_folders(root, top)
    found = {
        part: Part(folder, _list_part(walk, Path(folder), part == "train", may_be_empty))
        for part, folder in (parts or {"train": ""}).items()
    }
    if walk.broken:
        raise unreadable([*walk.broken, *_unread(root, found)])
    return Layout(root, found, dict(sorted(walk.skipped.items())))


def _unread(root: Path, parts: Mapping[str, Part]) -> list[Broken]:
    """Which of the listed files are broken."""
    from modkernel.data.images import find_broken  # With torch, which no listing waits for.

    files = [file for part in parts.values() for each in part.listing.values() for file in each]
    return find_broken([root / file.path for file in files])


def find_file(root: Path, example: str) -> Path:
    """The file of an example's id, which is its path in composed form, on the disk.

    Where it is gone, the path at which it was.
    """
    path = root / example
    if path.exists():
        return path
    path = root
    for name in example.split("/"):
        try:
            same = [each.name for each in path.iterdir() if composed(each.name) == name]
        except OSError:
            same = []
        path /= same[0] if same else name
    return path


def _part_folders(root: Path, top: _Entries) -> dict[str, str]:
    """The folder of each part, in the order of `PARTS`; empty if the set is not split already.

    Raises:
        DataError: two folders for one part, or others beside them.
    """
    by_part: dict[str, list[str]] = {
        part: [folder for folder in top.folders.values() if folder.lower() in names]
        for part, names in PARTS.items()
    }
    named = [folder for folders in by_part.values() for folder in folders]
    others = [folder for folder in top.folders.values() if folder not in named]
    if not by_part["train"] or top.images or not _has_folders(root / by_part["train"][0], others):
        return {}
    for folders in by_part.values():
        if len(folders) > 1:
            raise DataError(
                f"{root} has {' and '.join(map(repr, folders))}, which name the same part: join "
                "them or remove one."
            )
    if others:
        raise DataError(
            f"{root} has the parts {listed(named)}, and beside them {listed(others)}: parts are "
            "named train, val or valid, and test; move the others elsewhere."
        )
    return {part: folders[0] for part, folders in by_part.items() if folders}


def _has_folders(folder: Path, others: list[str]) -> bool:
    """Whether a folder named like a part is one, where others are beside it that are not."""
    if not others:
        return True
    try:
        return any(each.is_dir() and not is_ignored(each.name) for each in folder.iterdir())
    except OSError:
        return True


def _list_part(walk: _Walk, part: Path, needed: bool, may_be_empty: str | None) -> Listing:
    """The files of a part by class.

    Args:
        walk: what was met so far.
        part: its folder, below the root.
        needed: whether each class must have images here.
        may_be_empty: the class that need not.
    """
    folder = walk.root / part
    top = _entries(walk, part)
    if top.folders and top.images:
        raise DataError(
            f"{folder} has both folders and images ({next(iter(top.images))}): put each image into "
            "its class's folder, or all of them straight into one folder without classes."
        )
    if top.images:
        return {None: _stat(walk, part, top.images.values())}
    listing: Listing = {}
    for name, real in top.folders.items():
        inner = _entries(walk, part / real)
        if inner.folders:
            raise DataError(_too_deep(folder, real, top, inner))
        if inner.images:
            listing[name] = _stat(walk, part / real, inner.images.values())
        elif needed and name != may_be_empty:
            raise DataError(
                f"Class folder {folder / real} holds no images{_instead(walk, part / real)}: add "
                "some or remove the folder."
            )
    if not listing:
        raise DataError(
            f"{folder} holds no images{_instead(walk, part)}: it needs one folder per class, with "
            f"files of type {', '.join(sorted(EXTENSIONS))}."
        )
    return listing


def _too_deep(folder: Path, name: str, top: _Entries, inner: _Entries) -> str:
    nested = next(iter(inner.folders))
    text = f"Class folder {folder / name} has the folder '{nested}' in it: "
    if len(top.folders) == 1:
        return f"{text}if the classes are there, set dataset.path to {folder / name}."
    return f"{text}put the images straight into the class's folder."


def _instead(walk: _Walk, folder: Path) -> str:
    """What a folder without images has instead, and what to do about it."""
    names = walk.skipped.get(folder.as_posix())
    if not names:
        return ""
    advice = " ".join(remedies(names)).rstrip(".")
    return f", but {kinds_of(names)}" + (f" ({advice})" if advice else "")


def _entries(walk: _Walk, part: Path) -> _Entries:
    folder = walk.root / part
    folders: dict[str, str] = {}
    images: dict[str, os.DirEntry[str]] = {}
    try:
        with os.scandir(folder) as entries:
            met = sorted(
                (entry for entry in entries if not is_ignored(entry.name)),
                key=lambda entry: composed(entry.name),
            )
    except OSError as error:
        raise DataError(
            f"Cannot read image folder {folder}: {error.strerror}. Check dataset.path and its "
            "permissions."
        ) from None
    skipped = []
    for entry in met:
        name = composed(entry.name)
        if name in folders or name in images:
            raise DataError(
                f"{folder} has two entries named '{name}', in different Unicode forms: rename one, "
                "or join them."
            )
        if _is_folder(entry):
            folders[name] = entry.name
        elif is_image(entry.name):
            images[name] = entry
        else:
            skipped.append(entry.name)
    if skipped:
        # The folder of a set without parts is listed twice, and its files count once.
        walk.skipped[part.as_posix()] = skipped
    return _Entries(folders, images)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one.

    Raises:
        DataError: a link that cannot be followed, as one to itself; images are told with others.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if is_image(entry.name):
            return False
        raise DataError(
            f"Cannot read {entry.path}: {error.strerror}. Correct or remove it."
        ) from None


def _stat(walk: _Walk, part: Path, images: Iterable[os.DirEntry[str]]) -> list[ListedFile]:
    found = []
    for entry in images:
        try:
            stat = entry.stat()
        except OSError as error:
            walk.broken.append(Broken(Path(entry.path), error.strerror or str(error)))
            continue
        if not S_ISREG(stat.st_mode):  # Reading a pipe or a device might never end.
            walk.broken.append(Broken(Path(entry.path), "no file, but a pipe or a device"))
            continue
        path = f"{part.as_posix()}/{entry.name}" if part.parts else entry.name
        found.append(ListedFile(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return found
