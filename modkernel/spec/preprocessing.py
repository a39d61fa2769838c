"""What is done to an example before the first module."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modkernel.spec.base import Shape, Spec


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

    @property
    def id(self) -> str:
        """What the first module names as its upstream."""
        return f"preprocessing-{self.digest()}"
