"""One digest over everything that a data set gives to training."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from torch import Tensor

from modkernel.data.contents import Contents
from modkernel.data.findings import Finding
from modkernel.data.folder import common_shape
from modkernel.data.keys import DATA_FORMAT
from modkernel.data.pixel_cache import array_bytes
from modkernel.data.pool import FileList, Pool, take
from modkernel.data.reading import choose_reading, reading_findings, resized_findings
from modkernel.data.split import Membership
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec, ImageReading, Shape


def shape_of(spec: DatasetSpec, pool: Pool, contents: Contents) -> Shape:
    """The shape of one example as training sees it.

    Raises:
        DataError: images of different sizes without image_size, or image options for vectors.
    """
    if isinstance(pool.examples, Tensor):
        return _fitted_shape(spec, tuple(pool.examples.shape[1:]))
    listed = take(pool.examples, pool.rows)
    assert isinstance(listed, FileList)
    assert contents.facts is not None
    return common_shape(spec, listed, contents.facts)


def reading_of(
    spec: DatasetSpec, pool: Pool, contents: Contents, found: Membership
) -> tuple[ImageReading, tuple[Finding, ...]]:
    """How the image files of a set are read, by its training images, and what to know of that."""
    examples = pool.examples
    if isinstance(examples, Tensor):
        return ImageReading(), ()
    assert contents.facts is not None
    facts = dict(zip(pool.rows.tolist(), contents.facts, strict=True))
    trained = [facts[row] for row in found.train.tolist()]
    reading = choose_reading(trained, spec.value_range, spec.background)
    names = [examples.files[row].path for row in facts]
    noticed = reading_findings(reading, names, list(facts.values()))
    return reading, noticed + resized_findings(spec, names, list(facts.values()))


def fingerprint_of(
    spec: DatasetSpec, pool: Pool, found: Membership, hashes: np.ndarray, reading: ImageReading
) -> str:
    """The fingerprint of a set.

    It is SHA-256 over JSON of the class names, which example ids are in which part, image_size,
    channels and how files are read; then all labels; then SHA-256 of each example as the source
    has it. The split's seed and fractions are in it by what they cause. The place of the data is
    not.

    Args:
        spec: image_size and channels.
        pool: the chosen classes.
        found: what is in which part.
        hashes: uint8 [N, 32], of the content of every example of the pool.
        reading: how files are read.
    """
    parts = (found.train, found.validation, found.test, found.borrowed)
    examples = pool.examples
    head = {
        "format": DATA_FORMAT,
        "classes": pool.classes,
        "ids": [[pool.ids[row] for row in part.tolist()] for part in parts],
        "image_size": spec.image_size,
        "channels": spec.channels,
        "reading": reading.model_dump(mode="json"),
        "labelled": pool.labels is not None,
        "shape": list(examples.shape[1:]) if isinstance(examples, Tensor) else None,
        "dtype": str(examples.dtype) if isinstance(examples, Tensor) else None,
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    if pool.labels is not None:
        digest.update(array_bytes(pool.labels[found.rows]))
    digest.update(hashes[found.rows.numpy()].tobytes())
    return digest.hexdigest()


def _fitted_shape(spec: DatasetSpec, shape: Shape) -> Shape:
    if spec.value_range is not None or spec.background is not None:
        raise DataError(
            "value_range and background are for image files, and this set has none: leave them out."
        )
    sides = spec.side_lengths()
    if len(shape) == 1:
        if sides is not None or spec.channels is not None:
            raise DataError("This set holds vectors: leave image_size and channels out.")
        return shape
    return (spec.channels or shape[0], *(sides or shape[1:]))
