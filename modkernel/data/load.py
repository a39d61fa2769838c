"""Load a data set, or describe it from what an earlier load has written down."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from modkernel.data.arrays import open_arrays
from modkernel.data.dataset import DataPlaces, Dataset, DatasetInfo, Split
from modkernel.data.fingerprint import DATA_FORMAT, identify
from modkernel.data.folder import open_folder
from modkernel.data.images import decode_many, fit_tensor
from modkernel.data.own import open_own
from modkernel.data.pixel_cache import cached_pixels, read_json, write_json
from modkernel.data.pool import Source, Unread
from modkernel.data.residency import fits_main_memory
from modkernel.data.sources import RawExamples, Resident, Streamed
from modkernel.data.split import Arranged, arrange
from modkernel.data.statistics import preprocessing_of
from modkernel.data.tables import open_table
from modkernel.data.unlabelled import leave_out_unlabelled
from modkernel.data.vision import open_digits, open_vision
from modkernel.lookup import is_import_path, lookup
from modkernel.spec import DatasetSpec, Shape

DATASETS: dict[str, Callable[[DatasetSpec, DataPlaces], Source]] = {
    "digits": open_digits,
    "mnist": open_vision,
    "fashion_mnist": open_vision,
    "cifar10": open_vision,
    "cifar100": open_vision,
    "svhn": open_vision,
    "image_folder": open_folder,
    "arrays": open_arrays,
    "table": open_table,
}
"""Name to the function that finds the set without reading it."""


def load_dataset(
    spec: DatasetSpec, where: DataPlaces, resident_limit: int | None = None
) -> Dataset:
    """Load a data set, choose its classes, split it and fingerprint it.

    The fingerprint is SHA-256 over every chosen example (its pixels or its file's bytes), its id
    and label, the class names, which examples are in which split, and image_size and channels.
    The same content at another path has the same fingerprint. Sizes and times of files tell
    whether what an earlier load has found still holds; a loader of your own is always called.

    Args:
        spec: which data set.
        where: the data root and the cache.
        resident_limit: bytes of decoded images above which an image folder is streamed from its
            files; half of the free memory if None. Other sets are always held in memory.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: data that is missing, unreadable or unfit; its subclasses ClassError and
            ImageError for classes and for a file that is no readable image.
        SettingsError: the cache cannot be written.
    """
    source = _open(spec, where)
    known = _read_info(_info_path(spec, where, source))
    chosen = arrange(leave_out_unlabelled(source.read(), spec.unlabelled), spec)
    if known is None:
        shape, digest = identify(spec, chosen, where.cache)
    else:
        shape, digest = known.preprocessing.shape, known.fingerprint
    decoded = where.cache / "datasets" / f"{digest}.safetensors"
    examples = _read(chosen.examples, shape, decoded, resident_limit)
    train, validation, test = (_split(chosen, examples, part) for part in chosen.parts)
    if known is None:
        preprocessing, noticed = preprocessing_of(train.examples, chosen.columns)
        findings = chosen.findings + noticed
    else:
        preprocessing, findings = known.preprocessing, known.findings
    data = Dataset(
        name=spec.name,
        classes=chosen.classes,
        fingerprint=digest,
        preprocessing=preprocessing,
        train=train,
        validation=validation,
        test=test,
        findings=findings,
    )
    if known is None:
        # A set that has just been downloaded has its stamp only now.
        path = _info_path(spec, where, source if source.stamp else _open(spec, where))
        if path is not None:
            write_json(path, data.info().model_dump(mode="json"))
    return data


def describe_dataset(spec: DatasetSpec, where: DataPlaces) -> DatasetInfo:
    """What `load_dataset` would load, from the cache if the set's files are as they were.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: data that is missing, unreadable or unfit, as of `load_dataset`.
        SettingsError: the cache cannot be written.
    """
    source = _open(spec, where)
    return _read_info(_info_path(spec, where, source)) or load_dataset(spec, where).info()


def _open(spec: DatasetSpec, where: DataPlaces) -> Source:
    if is_import_path(spec.name):
        return open_own(spec, where)
    return lookup(DATASETS, spec.name, "data set")(spec, where)


def _info_path(spec: DatasetSpec, where: DataPlaces, source: Source) -> Path | None:
    if source.stamp is None:
        return None
    key = hashlib.sha256(f"{DATA_FORMAT}\n{source.stamp}\n{spec.digest()}".encode()).hexdigest()
    return where.cache / "info" / f"{key}.json"


def _read_info(path: Path | None) -> DatasetInfo | None:
    content = None if path is None else read_json(path)
    try:
        return None if content is None else DatasetInfo.model_validate(content)
    except ValidationError:
        return None


def _read(
    unread: Unread, shape: Shape, decoded: Path, resident_limit: int | None
) -> Tensor | Streamed:
    """Examples [N, *shape] in memory, or a source that decodes their files each time."""
    if isinstance(unread, Tensor):
        if tuple(unread.shape[1:]) == shape:
            return unread
        return cached_pixels(decoded, (len(unread), *shape), lambda: fit_tensor(unread, shape))
    paths = tuple(file.path for file in unread.files)
    if not fits_main_memory(len(paths) * math.prod(shape), resident_limit):
        return Streamed(unread.root, paths, shape)
    files = [unread.root / path for path in paths]
    return cached_pixels(decoded, (len(paths), *shape), lambda: decode_many(files, shape))


def _split(chosen: Arranged, examples: Tensor | Streamed, part: slice) -> Split:
    source: RawExamples
    if isinstance(examples, Streamed):
        source = Streamed(examples.root, examples.paths[part], examples.shape)
    else:
        source = Resident(examples, part.start, part.stop)
    return Split(
        ids=chosen.ids[part],
        labels=None if chosen.labels is None else chosen.labels[part],
        examples=source,
    )
