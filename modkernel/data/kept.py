"""What is kept of a loaded data set, so that the next load or plan looks at no example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from modkernel.data.cache_files import read_json, write_json
from modkernel.data.dataset import DatasetInfo
from modkernel.data.pixel_cache import read_tensors, write_tensors
from modkernel.data.split import Membership


@dataclass(frozen=True, eq=False)
class Kept:
    """A set's summary, its parts, and the digests of its examples.

    Attributes:
        info: the summary.
        found: which rows are in which part.
        digests: int64, of the training, the validation and the test examples, in that order.
    """

    info: DatasetInfo
    found: Membership
    digests: Tensor


def read_kept(cache: Path, key: str | None) -> Kept | None:
    """What was kept under a key; None where that is nothing, or damaged."""
    content = None if key is None else read_json(_info(cache, key))
    if key is None or content is None:
        return None
    tensors = read_tensors(_split(cache, key))
    if tensors is None:
        return None
    digests = tensors.pop("digests")
    try:
        return Kept(DatasetInfo.model_validate(content), Membership(**tensors), digests)
    except ValidationError:
        return None


def write_kept(cache: Path, key: str, kept: Kept) -> None:
    """Keep it.

    Raises:
        SettingsError: the cache folder cannot be written.
    """
    write_tensors(_split(cache, key), {**vars(kept.found), "digests": kept.digests})
    write_json(_info(cache, key), kept.info.model_dump(mode="json"))


def _info(cache: Path, key: str) -> Path:
    return cache / "info" / f"{key}.json"


def _split(cache: Path, key: str) -> Path:
    return cache / "splits" / f"{key}.safetensors"
