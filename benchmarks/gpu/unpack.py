"""Unpack the carried image folder, and decode it into a cache.

python -m benchmarks.gpu.unpack --archive images.tar.xz --images FOLDER --cache FOLDER
"""

from __future__ import annotations

import argparse
import tarfile
import time
from pathlib import Path

from modkernel.data import DataPlaces, load_dataset
from modkernel.spec import DatasetSpec


def packed_images(carry: Path) -> Path | None:
    """The one archive in a folder; none where there is none."""
    found = sorted(carry.glob("*.tar.xz"))
    return found[0] if found else None


def main() -> None:
    """Unpack, then load once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    given = parser.parse_args()
    began = time.perf_counter()
    with tarfile.open(given.archive) as archive:
        archive.extractall(given.images, filter="data")
    print(f"unpacked after {time.perf_counter() - began:.1f} s")
    spec = DatasetSpec(name="image_folder", path=str(given.images))
    data = load_dataset(spec, DataPlaces(root=given.cache, cache=given.cache, download=False))
    print(f"{len(data.classes)} classes decoded after {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
