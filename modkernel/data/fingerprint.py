"""One digest over everything that a data set gives to training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from modkernel.data.findings import Finding
from modkernel.data.folder import common_shape, read_facts
from modkernel.data.pixel_cache import array_bytes
from modkernel.data.reading import choose_reading, reading_findings
from modkernel.data.split import Arranged
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec, ImageReading, Shape

DATA_FORMAT = 2
"""Version of the fingerprint, of how images are decoded, and of what is cached of a set."""


@dataclass(frozen=True)
class Identity:
    """What a set is, before its examples are decoded.

    Attributes:
        shape: of one example as training sees it.
        reading: how image files are read.
        fingerprint: of the set.
        hashes: of each example, in order.
        findings: what files say that a person should know.
    """

    shape: Shape
    reading: ImageReading
    fingerprint: str
    hashes: Sequence[str | bytes]
    findings: tuple[Finding, ...] = ()


def identify(spec: DatasetSpec, chosen: Arranged, cache: Path) -> Identity:
    """The fingerprint of a set, the shape of its examples, and how their files are read.

    The fingerprint is SHA-256 over JSON of the class names, which example ids are in which split,
    image_size, channels and how files are read; then all labels; then all examples as the source
    has them, or for an image folder the SHA-256 of each file. The split's seed and fractions are in
    it by what they cause. The place of the data is not.

    Raises:
        DataError: images of different sizes without image_size, or image options for vectors.
        ImageError: files that are no readable images.
    """
    examples = chosen.examples
    reading = ImageReading()
    findings: tuple[Finding, ...] = ()
    hashes: Sequence[str | bytes]
    if isinstance(examples, Tensor):
        shape = _fitted_shape(spec, tuple(examples.shape[1:]))
        hashes = [hashlib.sha256(array_bytes(row)).digest() for row in examples]
        content: dict[str, object] = {"shape": list(examples.shape), "dtype": str(examples.dtype)}
    else:
        facts = read_facts(examples, cache)
        shape = common_shape(spec, examples, facts)
        trained = facts[chosen.parts[0]]
        reading = choose_reading(trained, spec.value_range, spec.background)
        findings = reading_findings(reading, [file.path for file in examples.files], facts)
        hashes = [found.sha256 for found in facts]
        content = {"files": hashes}
    head = {
        "format": DATA_FORMAT,
        "classes": chosen.classes,
        "ids": [chosen.ids[part] for part in chosen.parts],
        "image_size": spec.image_size,
        "channels": spec.channels,
        "reading": reading.model_dump(mode="json"),
        "labelled": chosen.labels is not None,
        **content,
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    if chosen.labels is not None:
        digest.update(array_bytes(chosen.labels))
    if isinstance(examples, Tensor):
        digest.update(array_bytes(examples))
    return Identity(shape, reading, digest.hexdigest(), hashes, findings)


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
