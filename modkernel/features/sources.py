"""Sources of examples: computed features, some of another source, random views of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.data.augment import augment
from modkernel.data.sources import ExampleSource, hand_over
from modkernel.spec import Recipe
from modkernel.system.seeding import generator_for

BATCH = 512
"""Examples that are loaded at once."""


class Features:
    """Computed examples [N, ...] as a source of batches."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One batch [B, ...] on the device for each index batch [B]."""
        for indices in order:
            batch = self.values[indices.to(self.values.device, non_blocking=True)]
            yield hand_over(batch, device)


@dataclass(frozen=True)
class Picked:
    """Some examples of a source, by their positions, int64 [n]."""

    examples: ExampleSource
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One batch [B, ...] on the device for each index batch [B] over the rows."""
        return self.examples.batches([self.rows[indices] for indices in order], device)


@dataclass(frozen=True)
class View:
    """One random view of every image, the same for every module: number `number` of a recipe's.

    It depends on the number and on the index batches alone, not on any module's seed, so that
    modules on one upstream share it.
    """

    images: ExampleSource
    recipe: Recipe
    number: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def transform(self) -> str:
        """What it is called in a `FeatureKey`."""
        return f"view-{self.number} crop {self.recipe.crop_padding} flip {self.recipe.flip}"

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One batch of raw images [B, C, H, W] for each index batch [B]."""
        for position, raw in enumerate(self.images.batches(order, device)):
            generator = generator_for("view", self.number, position)
            yield augment(raw, self.recipe.crop_padding, self.recipe.flip, generator)


def in_order(count: int, size: int = BATCH) -> tuple[Tensor, ...]:
    """Index batches of all examples, in order."""
    return tuple(torch.arange(count).split(size))
