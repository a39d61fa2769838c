"""What is done to an example before the first module."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from modkernel.spec.base import Shape, Spec
from modkernel.spec.shorthand import from_sides


class ImageReading(Spec):
    """How the pixels of an image file become eight bits, where they are not eight bits as such."""

    value_range: tuple[float, float] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Values that become 0 and 255 in grey images of more than eight bits.",
    )
    background: int = Field(255, description="Grey level that transparent images are laid on.")

    @property
    def told(self) -> str:
        """What is done to image files other than the usual, in words, if anything is."""
        parts = []
        if self.value_range is not None:
            low, high = self.value_range
            parts.append(
                f"values from {low:.10g} to {high:.10g} of grey pictures of more than eight bits "
                "are scaled to 0 to 255, and what lies outside is cut off"
            )
        if self.background != ImageReading().background:
            parts.append(f"transparent pictures are laid on grey level {self.background}")
        return "; ".join(parts)


class Preprocessing(Spec):
    """What is done to an example before the first module: x/255 for uint8, then (x - mean)/std.

    In vectors, values outside a column's bounds are set to the nearer one first, and missing ones
    (NaN) are 0 in the end, which is the mean.
    """

    shape: Shape
    dtype: Literal["uint8", "float32"]
    mean: tuple[float, ...] = Field(
        description="One value a channel of images or a column of vectors, or one for all."
    )
    std: tuple[float, ...]
    bounds: tuple[tuple[float, float] | None, ...] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Least and greatest ordinary value of each column of vectors that has others.",
    )
    columns: tuple[str, ...] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Names of a table's columns as they are encoded: 'column' of numbers, or "
        "'column=category'.",
    )
    reading: ImageReading = Field(ImageReading(), exclude_if=lambda value: value == ImageReading())

    @property
    def id(self) -> str:
        """What the first module names as its upstream."""
        return f"preprocessing-{self.digest()}"

    def image_fields(self) -> dict[str, Any]:
        """Fields of a `DatasetSpec` that make image files such examples; none for vectors."""
        if len(self.shape) != 3:
            return {}
        channels, *sides = self.shape
        fields = {"image_size": from_sides(sides), "channels": channels}
        return fields | self.reading_fields()

    def reading_fields(self) -> dict[str, Any]:
        """Fields of a `DatasetSpec` that have image files read in another way than is usual."""
        return self.reading.model_dump(exclude_defaults=True)
