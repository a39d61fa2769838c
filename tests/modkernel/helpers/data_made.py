"""Small data sets that the data tests make for themselves."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modkernel.data import DataPlaces, Dataset, Finding
from modkernel.spec import DatasetSpec


def places(folder: Path, download: bool = False) -> DataPlaces:
    return DataPlaces(root=folder / "root", cache=folder / "cache", download=download)


def picture(seed: int, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Image.Image:
    """Noise of (width, height)."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(noise)


def image_folder(
    root: Path,
    counts: Mapping[str, int],
    size: tuple[int, int] = (8, 6),
    mode: str = "RGB",
    suffix: str = "png",
    seed: int = 0,
) -> Path:
    """One folder a class (a name may be 'train/cat'), with that many images in each."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            seed += 1
            picture(seed, size, mode).save(root / name / f"{i:03d}.{suffix}")
    return root


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def fashion_mnist(root: Path, n_train: int = 60, n_test: int = 20) -> None:
    """A tiny Fashion-MNIST in torchvision's layout, with classes in turn."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", n_train, 1), ("t10k", n_test, 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, count) + labels.tobytes()
        )


def folder_spec(root: Path, **options) -> DatasetSpec:
    return DatasetSpec(name="image_folder", path=str(root), **options)


def all_pixels(data: Dataset) -> torch.Tensor:
    splits = (data.train, data.validation, data.test)
    return torch.cat([split.examples.batch(torch.arange(len(split))) for split in splits])


def noticed(data: Dataset) -> list[Finding]:
    """What was found about a set, but for its parts being small."""
    return [finding for finding in data.findings if finding.kind != "small"]
