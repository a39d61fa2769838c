"""Which data, and how they are read and split."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from modkernel.spec.base import Spec
from modkernel.spec.fields import ClassName, Groups, ImageSize, Label


class DatasetSpec(Spec, title="Data set"):
    """A data set, a subset of its classes, and how it is split."""

    name: str = Field(
        "digits",
        description="digits, mnist, fashion_mnist, cifar10, cifar100, svhn, image_folder, arrays, "
        "table, huggingface, or the import path 'package.module:function' of your own loader.",
    )
    path: str | None = Field(
        None,
        description="Folder of image_folder or huggingface, file of arrays or a table, or a name "
        "that each machine's data_paths gives a path.",
    )
    label: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Column of a table, or of a huggingface folder, that has the classes.",
    )
    classes: tuple[ClassName, ...] | None = Field(
        None, description="Only these classes, by name; all of them if left out."
    )
    groups: Groups | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Classes joined under new names, such as "
        '{"animal": ["cat", "dog"], "vehicle": ["car", "ship"]}; not together with classes.',
    )
    image_size: ImageSize | None = Field(
        None, description="Side in pixels that images are resized to, or [height, width]."
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 converts images to grey, 3 to colour; as they are if left out."
    )
    value_range: tuple[float, float] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Values that become black and white in grey images of more than 8 bits; the "
        "training images' smallest and largest if left out.",
    )
    background: int | None = Field(
        None,
        ge=0,
        le=255,
        exclude_if=lambda value: value is None,
        description="Grey level that transparent images are laid on; white (255) if left out, or "
        "another that images of nearly that colour stand out from.",
    )
    unlabelled: Label | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Label or class name that stands for 'no label', such as -1: its examples are "
        "left out.",
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training examples kept for validation."
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share kept for testing where the set has no test part."
    )
    split_seed: int = Field(0, ge=0, description="Seed of the split.")

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.groups is not None and self.classes is not None:
            raise ValueError(
                "give 'classes' or 'groups', not both: a class that is in no group is left out"
            )
        return self

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError("'value_range' is [low, high] with low < high")
        return self

    def side_lengths(self) -> tuple[int, int] | None:
        """Height and width that images are resized to, if they are."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size
