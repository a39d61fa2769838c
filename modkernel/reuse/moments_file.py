"""The stored form of a module's class moments: one safetensors file, and nothing that can run."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from modkernel.errors import ArtifactError, MomentsError
from modkernel.reuse.moments import ClassMoments, ModuleMoments
from modkernel.system.files import replace_file

__all__ = ["MOMENTS_FILE", "read_moments", "write_moments"]

MOMENTS_FILE = "moments.safetensors"
"""Name of the file that a job leaves."""
FORMAT = 1
"""Version of the stored form."""
SPLITS = ("train", "validation")
"""Fields of `ModuleMoments` that are class moments."""
_KEY = "moments"
"""Of the one entry of the file's metadata."""
_MEASURE_AGAIN = "Measure the module again."


def write_moments(path: Path, moments: ModuleMoments) -> str:
    """Write a module's moments so that the file appears complete or not at all.

    Equal moments give equal bytes. Second moments are packed: they are symmetric, so the upper
    triangle is enough.

    Returns:
        SHA-256 of the file, as 64 hexadecimal digits.

    Raises:
        ArtifactError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for split in SPLITS:
        part: ClassMoments = getattr(moments, split)
        rows, columns = torch.triu_indices(part.dimension, part.dimension)
        tensors |= {
            f"{split}.counts": part.counts.clone(),
            f"{split}.sums": part.sums.clone(),
            f"{split}.products": part.products[:, rows, columns],
            f"{split}.squares": part.squares.clone(),
            f"{split}.fourths": part.fourths.clone(),
        }
    about = {
        "format": FORMAT,
        "module_id": moments.module_id,
        "fingerprint": moments.train.fingerprint,
        "classes": moments.train.classes,
        "least": {split: getattr(moments, split).least for split in SPLITS},
        "seconds": moments.seconds,
    }
    # One entry of metadata: several are written in an order that changes from run to run.
    content = save(
        tensors,
        metadata={_KEY: json.dumps(about, sort_keys=True, separators=(",", ":"))},
    )
    try:
        replace_file(path, content, durable=True)
    except OSError as error:
        raise ArtifactError(
            f"Cannot write moments to {path}: {error.strerror or error}. "
            "Use a folder on a disk with room that you may write to."
        ) from error
    return hashlib.sha256(content).hexdigest()


def read_moments(path: Path, sha256: str) -> ModuleMoments:
    """Read what `write_moments` wrote; the bytes that are read are the bytes that are checked.

    Raises:
        ArtifactError: the file is missing, altered, of another version or not ours.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"Cannot read {path}: {error.strerror or error}. {_MEASURE_AGAIN}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtifactError(
            f"{path} differs from what was stored: its sha256 is {found[:12]}…, not "
            f"{sha256[:12]}…. {_MEASURE_AGAIN}"
        )
    try:
        about, tensors = _metadata(content), load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_ours(path) from error
    if about.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} has format version {about.get('format')}, but this modkernel reads version "
            f"{FORMAT}: use the modkernel that wrote it, or measure the module again."
        )
    try:
        train, validation = (_parse(about, tensors, split) for split in SPLITS)
        return ModuleMoments(about["module_id"], train, validation, float(about["seconds"]))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, MomentsError) as error:
        raise _not_ours(path) from error


def _metadata(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
    if not isinstance(about, dict):
        raise ValueError("metadata are not an object")
    return about


def _parse(about: dict[str, Any], tensors: dict[str, Tensor], split: str) -> ClassMoments:
    classes = tuple(about["classes"])
    sums, packed = tensors[f"{split}.sums"], tensors[f"{split}.products"]
    d = sums.shape[1]
    shapes = {
        "counts": (torch.int64, (len(classes),)),
        "sums": (torch.float64, (len(classes), d)),
        "products": (torch.float64, (len(classes), d * (d + 1) // 2)),
        "squares": (torch.float64, (len(classes),)),
        "fourths": (torch.float64, (len(classes),)),
    }
    for name, (dtype, shape) in shapes.items():
        tensor = tensors[f"{split}.{name}"]
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(f"{name} must be {dtype} {shape}")
    products = packed.index_select(1, _unpacking(d)).view(len(classes), d, d)
    return ClassMoments(
        classes=classes,
        fingerprint=str(about["fingerprint"]),
        counts=tensors[f"{split}.counts"],
        sums=sums,
        products=products,
        squares=tensors[f"{split}.squares"],
        fourths=tensors[f"{split}.fourths"],
        least=float(about["least"][split]),
    )


@lru_cache(maxsize=4)
def _unpacking(d: int) -> Tensor:
    """Where each entry of a symmetric matrix [d, d] is in its packed triangle, int64 [d²].

    For one gather: writing through indices wakes all threads of torch, for any size.
    """
    rows, columns = torch.triu_indices(d, d)
    place = torch.empty(d, d, dtype=torch.int64)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
    return place.flatten()


def _not_ours(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} does not hold class moments. {_MEASURE_AGAIN}")
