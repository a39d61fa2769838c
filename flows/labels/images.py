"""What a person sees of an example to label: its image as a data URI, or a vector's numbers."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data import Split
from modkernel.data.images import decode, file_facts
from modkernel.data.layout import find_file
from modkernel.spec import DatasetSpec, ImageReading

LARGEST = 320
"""Pixels of an image's longer side; a person sees more than a module that takes 32 of them."""
NUMBERS = 8
"""How many of a vector's numbers are shown."""


def label_images(
    dataset: DatasetSpec, part: Split, rows: Tensor, reading: ImageReading
) -> list[str]:
    """One text an example: `data:image/…` for an image, some numbers for a vector.

    Images of a folder are read again from their files, larger than the module takes them.

    Args:
        dataset: where the examples are from.
        part: the split that they are of.
        rows: int64 [n], positions in the split.
        reading: how the files' pixels become eight bits.

    Raises:
        ImageError: an image can no longer be read.
    """
    if part.examples.dtype != torch.uint8:
        return [_numbers(values) for values in part.examples.batch(rows)]
    if dataset.name == "image_folder" and dataset.path is not None:
        root = Path(dataset.path)
        paths = [find_file(root, part.ids[row]) for row in rows.tolist()]
        return [_data_uri(_from_file(path, reading)) for path in paths]
    return [_data_uri(pixels) for pixels in part.examples.batch(rows)]


def _from_file(path: Path, reading: ImageReading) -> Tensor:
    facts = file_facts(path)
    scale = min(1.0, LARGEST / max(facts.width, facts.height))
    height, width = (max(1, round(side * scale)) for side in (facts.height, facts.width))
    return decode(path, (1 if facts.grey else 3, height, width), reading)


def _data_uri(pixels: Tensor) -> str:
    """An image, uint8 [C, H, W] with 1 or 3 channels: PNG, or JPEG where that is far smaller."""
    from PIL import Image

    array = pixels.cpu().movedim(0, -1).squeeze(2).numpy()
    small = max(array.shape[:2]) <= 64
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG" if small else "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _numbers(values: Tensor) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values.flatten()[:NUMBERS].tolist())
    return shown + (", …" if values.numel() > NUMBERS else "")
