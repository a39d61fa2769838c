"""Well-known sets: scikit-learn's digits, which is bundled, and those that torchvision fetches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from modkernel.data.array_pool import Part, make_pool
from modkernel.data.cache_files import locked
from modkernel.data.changes import outlast_tick
from modkernel.data.places import DataPlaces
from modkernel.data.pool import Pool, Source
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec

DIGITS = tuple("0123456789")
"""Class names of digits, mnist and svhn."""


@dataclass(frozen=True)
class VisionSet:
    """How one of torchvision's sets is reached.

    Attributes:
        type_name: its class in torchvision.datasets.
        files: pattern of its files below the data root.
        parts: arguments that pick the training and the test part.
        classes: names of the classes, where torchvision's own do not serve.
    """

    type_name: str
    files: str
    parts: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
    classes: tuple[str, ...] | None = None


VISION_SETS: dict[str, VisionSet] = {
    "mnist": VisionSet("MNIST", "MNIST/raw/*", classes=DIGITS),
    "fashion_mnist": VisionSet("FashionMNIST", "FashionMNIST/raw/*"),
    "cifar10": VisionSet("CIFAR10", "cifar-10-batches-py/*"),
    "cifar100": VisionSet("CIFAR100", "cifar-100-python/*"),
    "svhn": VisionSet("SVHN", "*_32x32.mat", ({"split": "train"}, {"split": "test"}), DIGITS),
}
"""How torchvision has each set, by the name in `DatasetSpec.name`."""


def open_digits(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; 0…16 is scaled to 0…255."""
    found = find_spec("sklearn")
    folders = found.submodule_search_locations if found else None
    places = [Path(folder) / "datasets/data/digits.csv.gz" for folder in folders or ()]
    files = [file for file in places if file.is_file()]
    return Source(_stamp("digits", files), partial(_read_digits, files))


def open_vision(spec: DatasetSpec, where: DataPlaces) -> Source:
    """One of torchvision's sets below `where.root`; it is downloaded when it is first read.

    torchvision reads CIFAR's files with pickle, and does so only after it has compared their
    checksums with its own.
    """
    known = VISION_SETS[spec.name]
    files = sorted(file for file in where.root.glob(known.files) if file.is_file())
    stamp = _stamp(f"{spec.name}\n{where.root.resolve()}", files)
    return Source(stamp, partial(_read_vision, spec.name, known, where))


def _read_digits(files: Sequence[Path]) -> Pool:
    if not files:
        raise _needs("digits", ImportError(name="scikit-learn"))
    # Importing scikit-learn would take longer than all of a child's other preparations.
    table = np.loadtxt(files[0], delimiter=",")
    grey, labels = table[:, :-1], table[:, -1].astype(int)
    images = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return make_pool("digits", {"train": Part(images, labels)}, classes=DIGITS)


def _read_vision(name: str, known: VisionSet, where: DataPlaces) -> Pool:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(f"Data set '{name}' needs torchvision ({error}): pip install it.") from None
    old = where.root / known.type_name / "processed"
    if old.exists():
        raise DataError(
            f"{old} holds files that an old torchvision pickled, which are not read: remove that "
            "folder; the set is then read from, or downloaded to, the folder 'raw' next to it."
        )
    make: Callable[..., Any] = getattr(datasets, known.type_name)
    try:
        train, test = (make(where.root, download=False, **part) for part in known.parts)
    except ImportError as error:
        raise _needs(name, error) from None
    except Exception as error:
        if not where.download:
            raise _missing(name, known, where, f"{error}", "downloading is switched off") from None
        train, test = _download(name, known, where, make)
    classes = known.classes or tuple(train.classes)
    parts = {
        "train": Part(train.data, _labels(train)),
        "test": Part(test.data, _labels(test)),
    }
    return make_pool(name, parts, classes=classes)


def _download(
    name: str, known: VisionSet, where: DataPlaces, make: Callable[..., Any]
) -> tuple[Any, Any]:
    # Two processes would write into the same file.
    with locked(where.root / f".{name}.lock"):
        try:
            train, test = (make(where.root, download=True, **part) for part in known.parts)
        except ImportError as error:
            raise _needs(name, error) from None
        except Exception as error:
            reason = " ".join(str(error).split())
            raise _missing(name, known, where, reason, "downloading it failed") from None
    return train, test


def _labels(part: Any) -> np.ndarray:
    return np.asarray(part.targets if hasattr(part, "targets") else part.labels)


def _needs(name: str, error: ImportError) -> DataError:
    return DataError(
        f"Data set '{name}' needs the package '{error.name or error}': pip install it."
    )


def _missing(name: str, known: VisionSet, where: DataPlaces, reason: str, why: str) -> DataError:
    return DataError(
        f"Data set '{name}' is not in {where.root / known.files}, and {why} ({reason}). On a "
        "machine with a network connection, run "
        f"torchvision.datasets.{known.type_name}(root, download=True) and copy its files to "
        f"{where.root}, or set the data root to where they are."
    )


def _stamp(text: str, files: list[Path]) -> str | None:
    """Changes with the files' sizes and times; None if there are none."""
    if not files:
        return None
    facts = [(file.name, file.stat()) for file in files]
    outlast_tick(at for _, stat in facts for at in (stat.st_mtime_ns, stat.st_ctime_ns))
    lines = [f"{name} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for name, s in facts]
    return hashlib.sha256("\n".join([text, *lines]).encode()).hexdigest()
