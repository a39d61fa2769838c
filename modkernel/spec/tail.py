"""What stands on a hidden module while it is trained, and is thrown away afterwards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from modkernel.spec.base import Spec
from modkernel.spec.shown import shown


class Projection(Spec, title="Projection"):
    """Two layers with ReLU between them, on the features that the module's kernel makes."""

    projection: int = Field(ge=1, description="Units of each layer.")


def _told(given: object) -> object:
    """What a tail is written as, as what it means."""
    if isinstance(given, Projection) or given in ("auto", "none"):
        return given
    if _counts(given):
        return given
    if isinstance(given, dict) and [*given] == ["projection"] and _counts(given["projection"]):
        return Projection(**given)
    if isinstance(given, list | tuple) and given and all(isinstance(one, str) for one in given):
        if len(set(given)) < len(given):
            raise ValueError("a tail has each block once: name it once")
        return tuple(given)
    raise ValueError(
        f"{shown(given)} is no tail: write auto, none, a number of following blocks, a list of "
        "block names, or {projection: UNITS}"
    )


def _counts(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


Tail = Annotated[
    Literal["auto", "none"]
    | Annotated[int, Field(ge=1)]
    | Annotated[tuple[str, ...], Field(min_length=1)]
    | Projection,
    BeforeValidator(_told),
]
"""As a user may write it; that of a stored module is 'none', names of blocks or a `Projection`."""
