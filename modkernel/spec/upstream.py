"""What a module stands on: one module or preprocessing, or several modules side by side."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from modkernel.spec.base import Spec

PREPROCESSING = "preprocessing-"
"""What the id of a preprocessing begins with."""


class Upstream(Spec):
    """One of the things that a module stands on."""

    id: str = Field(description="Of the module, or of the preprocessing.")
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Of its kernel in the sum of all: its features are taken times √weight.",
    )


def _from_id(given: object) -> object:
    """The id of one upstream alone, or a list as JSON has it, as upstreams."""
    if isinstance(given, str):
        return (Upstream(id=given),)
    if isinstance(given, list | tuple):
        return tuple(Upstream(**one) if isinstance(one, dict) else one for one in given)
    return given


def _checked(upstream: tuple[Upstream, ...]) -> tuple[Upstream, ...]:
    ids = [one.id for one in upstream]
    if len(ids) == 1 and upstream[0].weight != 1:
        raise ValueError("the weight of a single upstream says nothing: leave it out")
    if len(set(ids)) < len(ids):
        raise ValueError("a module stands on another one once: name each upstream once")
    if len(ids) > 1 and any(one.startswith(PREPROCESSING) for one in ids):
        raise ValueError("on data alone a module stands by itself: join modules")
    return upstream


def _written(upstream: tuple[Upstream, ...]) -> Any:
    """One alone as its id: as what stands on one module was always stored."""
    if len(upstream) == 1:
        return upstream[0].id
    return [one.model_dump(mode="json") for one in upstream]


Upstreams = Annotated[
    tuple[Upstream, ...],
    BeforeValidator(_from_id, json_schema_input_type=str | tuple[Upstream, ...]),
    Field(min_length=1, description="Id of the module it stands on, or of the preprocessing; or "
          "several modules, in order, each with its weight."),
    AfterValidator(_checked),
    PlainSerializer(_written, when_used="json"),
]  # fmt: skip
"""Ordered; one alone may be written, and is stored, as its id."""
