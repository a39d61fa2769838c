"""Where data sets are looked for and where copies of them are cached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataPlaces:
    """Where data sets are looked for and where decoded copies of them are cached.

    Attributes:
        root: torchvision's data root.
        cache: folder for decoded images, file hashes and summaries; may be deleted at any time.
        download: whether a torchvision set that is not in `root` is downloaded.
    """

    root: Path
    cache: Path
    download: bool = True
