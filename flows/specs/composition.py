"""What a composition is asked for in a file: stored hidden modules and a new output module."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from modkernel.spec import DatasetSpec, Name, OutputSpec, Spec


def _from_one(given: object) -> object:
    return given if isinstance(given, list | tuple) else (given,)


def _written(references: tuple[str, ...]) -> str | list[str]:
    return references[0] if len(references) == 1 else list(references)


References = Annotated[
    tuple[str, ...],
    BeforeValidator(_from_one, json_schema_input_type=str | tuple[str, ...]),
    Field(min_length=1),
    PlainSerializer(_written, when_used="json"),
]
"""Stored modules side by side; one alone may be written as it is."""
Weights = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
"""Of each module's kernel in the sum of all."""
Aligned = Literal["aligned"]
"""Weights that are chosen by held-out examples, in closed form."""


class CompositionSpec(Spec, title="Composition"):
    """A network of stored hidden modules, with all that they stand on, and a new output module."""

    name: Name = Field(description="Of the network.")
    hidden: References = Field(
        description="Stored hidden module: id, NAME, NAME@ALIAS or NAME/VERSION; or a list of "
        "several, whose features lie side by side. Every run looks up anew what it means: with an "
        "alias, each composes the module promoted by then."
    )
    weights: Weights | Aligned | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Of several modules, each one's share in the sum of their kernels; 'aligned': "
        "chosen by held-out examples; 1 each if left out.",
    )
    dataset: DatasetSpec | None = Field(
        None, description="What to tell apart; the first hidden module's data if left out."
    )
    output: OutputSpec = Field(OutputSpec(), title="Output module")
    seed: int = Field(0, ge=0)
    labels: str | None = Field(
        None,
        description="CSV file of the labels (id, class) to train on; a data set's own count beside "
        "it only where some of its examples have none.",
    )
