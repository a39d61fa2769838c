"""Types of fields that may be written in several ways."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from modkernel.spec.shorthand import SMALLEST_SIDE, composed, from_number, from_pairs, from_sides

ClassName = Annotated[str, AfterValidator(composed)]
"""Name of a class, in Unicode's composed form, whichever form it was written in."""
Label = Annotated[ClassName, BeforeValidator(from_number, json_schema_input_type=str | int)]
"""Name of a class, or a whole number as which it is written."""
Side = Annotated[int, Field(ge=SMALLEST_SIDE)]
ImageSize = Annotated[
    Side | tuple[Side, Side],
    BeforeValidator(from_sides, json_schema_input_type=Side | tuple[Side, Side]),
]
"""A side in pixels, or height and width."""
Groups = Annotated[
    dict[ClassName, tuple[ClassName, ...]],
    # Canonical JSON sorts keys and some databases do too, but the order of classes means something.
    PlainSerializer(lambda groups: list(groups.items()), when_used="json"),
    BeforeValidator(
        from_pairs,
        json_schema_input_type=dict[str, tuple[str, ...]] | list[tuple[str, tuple[str, ...]]],
    ),
]
"""Class names by the name of their group, in order; pairs [name, classes] in JSON that we write."""
