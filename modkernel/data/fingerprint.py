"""One digest over everything that a data set gives to training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor

from modkernel.data.folder import common_shape, read_facts
from modkernel.data.pixel_cache import array_bytes
from modkernel.data.split import Arranged
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec, Shape

DATA_FORMAT = 1
"""Version of the fingerprint, of how images are decoded, and of what is cached of a set."""


def identify(spec: DatasetSpec, chosen: Arranged, cache: Path) -> tuple[Shape, str]:
    """The shape of one example as training sees it, and the fingerprint of the set.

    The fingerprint is SHA-256 over JSON of the class names, which example ids are in which split,
    image_size and channels; then all labels; then all examples as the source has them, or for an
    image folder the SHA-256 of each file. The split's seed and fractions are in it by what they
    cause. The place of the data is not.

    Raises:
        DataError: images of different sizes without image_size, or image options for vectors.
        ImageError: a file that is no readable image.
    """
    examples = chosen.examples
    if isinstance(examples, Tensor):
        shape = _fitted_shape(spec, tuple(examples.shape[1:]))
        content: dict[str, object] = {"shape": list(examples.shape), "dtype": str(examples.dtype)}
    else:
        facts = read_facts(examples, cache)
        shape = common_shape(spec, examples, facts)
        content = {"files": [found.sha256 for found in facts]}
    head = {
        "format": DATA_FORMAT,
        "classes": chosen.classes,
        "ids": [chosen.ids[part] for part in chosen.parts],
        "image_size": spec.image_size,
        "channels": spec.channels,
        "labelled": chosen.labels is not None,
        **content,
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    if chosen.labels is not None:
        digest.update(array_bytes(chosen.labels))
    if isinstance(examples, Tensor):
        digest.update(array_bytes(examples))
    return shape, digest.hexdigest()


def _fitted_shape(spec: DatasetSpec, shape: Shape) -> Shape:
    if len(shape) == 1:
        if spec.image_size is not None or spec.channels is not None:
            raise DataError("This set holds vectors: leave image_size and channels out.")
        return shape
    channels, height, width = shape
    size = spec.image_size
    return (spec.channels or channels, size or height, size or width)
