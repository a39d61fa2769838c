"""Load a data set, or describe it from what an earlier load has written down."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data.arrays import open_arrays
from modkernel.data.changes import check_unchanged
from modkernel.data.choose import choose
from modkernel.data.class_names import refuse_control
from modkernel.data.contents import ExampleDigests, digests_of, read_contents
from modkernel.data.copies import copies_findings
from modkernel.data.dataset import Dataset, DatasetInfo, Split
from modkernel.data.equal import equal_findings, likely_cause, refuse_equal
from modkernel.data.findings import Finding
from modkernel.data.fingerprint import fingerprint_of, reading_of, shape_of
from modkernel.data.folder import broken_images, open_folder
from modkernel.data.huggingface import open_huggingface
from modkernel.data.images import decode_many, fit_tensor
from modkernel.data.kept import Kept, read_kept, write_kept
from modkernel.data.keys import key_of
from modkernel.data.own import open_own
from modkernel.data.pixel_cache import cached_pixels
from modkernel.data.places import DataPlaces
from modkernel.data.pool import FileList, Pool, Source, Unlabelled, Unread, take
from modkernel.data.residency import fits_main_memory
from modkernel.data.sources import RawExamples, Resident, Streamed, check_decodes
from modkernel.data.split import share_out, split_findings
from modkernel.data.statistics import preprocessing_of
from modkernel.data.tables import open_table
from modkernel.data.unlabelled import leave_out_unlabelled
from modkernel.data.vision import open_digits, open_vision
from modkernel.errors import ImageError
from modkernel.lookup import OWN, is_import_path, lookup
from modkernel.spec import DatasetSpec, ImageReading, Preprocessing, Shape

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
    "huggingface": open_huggingface,
}
"""Name to the function that finds the set without reading it."""


def load_dataset(
    spec: DatasetSpec,
    where: DataPlaces,
    resident_limit: int | None = None,
    source: Source | None = None,
    unlabelled: bool = False,
) -> Dataset:
    """Load a data set, choose its classes, split it and fingerprint it.

    The fingerprint is SHA-256 over every chosen example (its row's or its file's bytes), its id
    and label, the class names, which examples are in which part, and image_size and channels.
    The same content at another path has the same fingerprint. Sizes and times of files tell
    whether what an earlier load has found still holds; a loader of your own is always called.

    Args:
        spec: which data set.
        where: the data root and the cache.
        resident_limit: bytes of decoded images above which an image folder is streamed from its
            files; half of the free memory if None. Other sets are always held in memory.
        source: where `find_dataset` has found it; it is found now if None.
        unlabelled: read the training examples without a label too, where others have one.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: data that is missing, unreadable or unfit; its subclasses ClassError and
            ImageError for classes and for a file that is no readable image.
        SettingsError: the cache cannot be written.
    """
    source = source or find_dataset(spec, where)
    kept = read_kept(where.cache, key_of(spec, source.stamp))
    pool = choose(leave_out_unlabelled(source.read(), spec.unlabelled), spec)
    refuse_control(pool.classes, f"Data set '{spec.name}'")
    if kept is not None:
        info = kept.info
        shape, reading = info.preprocessing.shape, info.preprocessing.reading
        fingerprint, found, digests = info.fingerprint, kept.found, kept.digests
    else:
        contents = read_contents(pool.examples, pool.rows, where.cache)
        refuse_equal(contents.hashes[pool.train.numpy()])
        shape = shape_of(spec, pool, contents)
        found = share_out(pool, spec, contents.hashes)
        reading, noticed = reading_of(spec, pool, contents, found)
        fingerprint = fingerprint_of(spec, pool, found, contents.hashes, reading)
        digests = digests_of(contents.hashes[found.rows.numpy()])
    decoded = where.cache / "datasets" / f"{fingerprint}.safetensors"
    chosen = take(pool.examples, found.rows)
    examples = _read(chosen, shape, reading, decoded, resident_limit)
    train, validation, test = (
        _split(pool, found.rows, examples, digests, part) for part in found.slices
    )
    if kept is None:
        parts = (train, validation, test)
        preprocessing, scales = _preprocessing(chosen, parts, reading, pool.columns)
        findings = pool.findings + split_findings(pool, spec, found) + noticed + scales
        cause = likely_cause(findings)
        findings += copies_findings(
            digests,
            [pool.ids[row] for row in found.rows.tolist()],
            None if pool.labels is None else pool.labels[found.rows],
            pool.classes,
            found.slices,
        )
        findings += equal_findings(train.examples, train.labels, pool.classes, cause)
    else:
        preprocessing, findings = info.preprocessing, info.findings
    data = Dataset(
        name=spec.name,
        classes=pool.classes,
        fingerprint=fingerprint,
        preprocessing=preprocessing,
        train=train,
        validation=validation,
        test=test,
        findings=findings,
        borrowed=torch.searchsorted(found.train, found.borrowed),
    )
    if unlabelled and pool.unlabelled is not None:
        held_out = digests[found.slices[1].start :]
        aside = _read_unlabelled(
            pool.unlabelled, held_out, where.cache, shape, reading, resident_limit
        )
        data = replace(data, unlabelled=aside)
    if kept is None:
        # A set that has just been downloaded has its stamp only now.
        key = key_of(spec, source.stamp or find_dataset(spec, where).stamp)
        if key is not None:
            write_kept(where.cache, key, Kept(data.info(), found, digests))
    return data


def _read_unlabelled(
    given: Unlabelled,
    held_out: Tensor,
    cache: Path,
    shape: Shape,
    reading: ImageReading,
    resident_limit: int | None,
) -> Split | None:
    """Examples without a label, but for copies of those that are validated or tested on."""
    count = len(given.ids)
    hashes = read_contents(given.examples, torch.arange(count), cache).hashes
    digests = digests_of(hashes)
    rows = (~torch.isin(digests, held_out)).nonzero().flatten()
    if not len(rows):
        return None
    name = hashlib.sha256(hashes[rows.numpy()].tobytes() + f"{shape}{reading}".encode()).hexdigest()
    decoded = cache / "datasets" / f"{name}.safetensors"
    examples = _read(take(given.examples, rows), shape, reading, decoded, resident_limit)
    source = examples if isinstance(examples, Streamed) else Resident.whole(examples)
    return Split([given.ids[row] for row in rows.tolist()], None, source, digests[rows])


def _preprocessing(
    chosen: Unread,
    splits: tuple[Split, Split, Split],
    reading: ImageReading,
    columns: tuple[str, ...],
) -> tuple[Preprocessing, tuple[Finding, ...]]:
    """How the examples are normalised, once all that are streamed are known to be readable.

    Raises:
        ImageError: images cannot be decoded; the message names all of them.
    """
    train, *others = splits
    try:
        found, told = preprocessing_of(train.examples, columns)
        for split in others:
            if isinstance(split.examples, Streamed):
                check_decodes(split.examples)
    except ImageError as error:
        assert isinstance(chosen, FileList)
        raise broken_images(chosen, error) from error
    return found.changed(reading=reading), told


def describe_dataset(spec: DatasetSpec, where: DataPlaces) -> DatasetInfo:
    """What `load_dataset` would load, from the cache if the set's files are as they were.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: data that is missing, unreadable or unfit, as of `load_dataset`.
        SettingsError: the cache cannot be written.
    """
    source = find_dataset(spec, where)
    kept = read_kept(where.cache, key_of(spec, source.stamp))
    return load_dataset(spec, where, source=source).info() if kept is None else kept.info


def find_dataset(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Find a data set's files, without reading them.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: its files cannot be found.
    """
    spec = where.located(spec)
    if is_import_path(spec.name):
        return open_own(spec, where)
    return lookup(DATASETS, spec.name, "data set", OWN)(spec, where)


def example_digests(spec: DatasetSpec, where: DataPlaces) -> ExampleDigests:
    """What tells the examples of a set apart, from the cache if the set's files are as they were.

    Raises:
        UnknownNameError: there is no data set of that name.
        DataError: data that is missing, unreadable or unfit, as of `load_dataset`.
        SettingsError: the cache cannot be written.
    """
    source = find_dataset(spec, where)
    kept = read_kept(where.cache, key_of(spec, source.stamp))
    if kept is not None:
        parts = [kept.digests[part] for part in kept.found.slices]
        fingerprint = kept.info.fingerprint
    else:
        data = load_dataset(spec, where, source=source)
        splits = (data.train, data.validation, data.test)
        parts = [split.digests for split in splits if split.digests is not None]
        fingerprint = data.fingerprint
    return ExampleDigests(fingerprint, *(part.numpy() for part in parts))


def _read(
    unread: Unread, shape: Shape, reading: ImageReading, decoded: Path, resident_limit: int | None
) -> Tensor | Streamed:
    """Examples [N, *shape] in memory, or a source that decodes their files each time."""
    if isinstance(unread, Tensor):
        if tuple(unread.shape[1:]) == shape:
            return unread
        return cached_pixels(decoded, (len(unread), *shape), lambda: fit_tensor(unread, shape))
    root, files = unread.root, unread.files
    if not fits_main_memory(len(files) * math.prod(shape), resident_limit):
        return Streamed(root, files, shape, reading)

    def pixels() -> Tensor:
        found = decode_many([root / file.path for file in files], shape, reading)
        # Else pixels of another content would be kept under this one's fingerprint.
        check_unchanged(root, files)
        return found

    return cached_pixels(decoded, (len(files), *shape), pixels)


def _split(
    pool: Pool, rows: Tensor, examples: Tensor | Streamed, digests: Tensor, part: slice
) -> Split:
    source: RawExamples
    if isinstance(examples, Streamed):
        source = replace(examples, files=examples.files[part])
    else:
        source = Resident(examples, part.start, part.stop)
    return Split(
        ids=[pool.ids[row] for row in rows[part].tolist()],
        labels=None if pool.labels is None else pool.labels[rows[part]],
        examples=source,
        digests=digests[part],
    )
