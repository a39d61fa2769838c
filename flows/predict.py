"""Predict image files with a stored network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from modkernel.data.images import read_images
from modkernel.errors import InterfaceError
from modkernel.modules.network import Network

BATCH = 256


class Prediction(BaseModel):
    """What a network says about one image."""

    model_config = ConfigDict(frozen=True)

    image: str
    label: str = Field(description="The most probable class.")
    probability: float = Field(description="Of that class.")
    probabilities: dict[str, float] = Field(description="Of every class.")


def predict(network: Network, images: Sequence[Path]) -> Iterator[Prediction]:
    """Predict images in order, each converted and resized as an image folder's are.

    Raises:
        ImageError: an image cannot be read; the message names it.
        InterfaceError: the network has no output module, or does not take images.
    """
    if network.classes is None:
        raise InterfaceError(
            "This network has no output module: train one on it with 'modkernel compose'."
        )
    shape = network.stored[0].spec.preprocessing.shape
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        rows = network.predict(read_images(batch, shape)).tolist()
        for image, row in zip(batch, rows, strict=True):
            probabilities = dict(zip(network.classes, row, strict=True))
            label = max(probabilities, key=probabilities.__getitem__)
            yield Prediction(
                image=str(image),
                label=label,
                probability=probabilities[label],
                probabilities=probabilities,
            )
