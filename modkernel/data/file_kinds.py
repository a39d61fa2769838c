"""Files by their suffix: data sets, images, what means nothing; and what is said of the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec

from modkernel.data.class_names import LISTED
from modkernel.data.findings import Finding

ARRAYS = (".npz", ".safetensors")
"""How the names of files of arrays end."""
TABLES = (".parquet", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".feather", ".arrow")
"""How the names of tables end."""
EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm"),
    )
)
"""Suffixes of the files of a folder that are taken for images, whatever is installed."""
HEIF = frozenset((".heic", ".heif", ".hif"))
"""Suffixes of images that the package pillow-heif reads."""
AVIF = frozenset((".avif",))
"""Suffixes of images that most builds of Pillow read."""
VIDEO = frozenset(
    (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".mts")
)
"""Suffixes of videos."""
SYSTEM = frozenset(
    (
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "icon\r"),
        *("$recycle.bin", "system volume information", "lost+found"),
    )
)
"""Files and folders that an operating system leaves behind, in lower case."""

REMEDIES: tuple[tuple[frozenset[str], str], ...] = (
    (HEIF, "HEIC images are read once the package is there: pip install pillow-heif."),
    (AVIF, "AVIF images are read by a Pillow that was built with AVIF: pip install -U pillow."),
    (VIDEO, "Save frames of videos as images."),
)
"""What to do about files that are not read, by their suffix."""


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or an operating system's: nobody misses it."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its suffix and what is installed."""
    suffix = suffix_of(name)
    return (
        suffix in EXTENSIONS
        or (suffix in HEIF and find_spec("pillow_heif") is not None)
        or (suffix in AVIF and _reads_avif())
    )


def suffix_of(name: str) -> str:
    """The suffix of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower()


def skipped_finding(skipped: Mapping[str, Sequence[str]]) -> tuple[Finding, ...]:
    """Tell of files that were not read.

    Args:
        skipped: names of files by the folder that they are in, relative to the set's.
    """
    count = sum(map(len, skipped.values()))
    if not count:
        return ()
    folders = [
        f"{kinds_of(names)} {'at the top' if folder == '.' else f'in {folder}'}"
        for folder, names in list(skipped.items())[:LISTED]
    ]
    more = len(skipped) - len(folders)
    text = (
        f"{count} file{'s are' if count > 1 else ' is'} not read, being of other types than images "
        f"are: {'; '.join(folders)}{f'; and in {more} more folders' if more else ''} (the first is "
        f"{next(iter(skipped.values()))[0]})."
    )
    names = [name for found in skipped.values() for name in found]
    return (Finding(kind="skipped", text=" ".join((text, *remedies(names))), count=count),)


def kinds_of(names: Iterable[str]) -> str:
    """How many files there are of each suffix, such as '3 .heic and 1 .txt'."""
    counts = Counter(suffix_of(name) or "without a suffix" for name in names)
    return " and ".join(f"{count} {suffix}" for suffix, count in counts.most_common())


def remedies(names: Iterable[str]) -> list[str]:
    """What to do about files that are not read."""
    suffixes = set(map(suffix_of, names))
    return [remedy for kinds, remedy in REMEDIES if kinds & suffixes]


@cache
def _reads_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))
