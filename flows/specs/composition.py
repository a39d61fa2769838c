"""What a composition is asked for in a file: a stored hidden module and a new output module."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec import DatasetSpec, Name, OutputSpec, Spec


class CompositionSpec(Spec, title="Composition"):
    """A network of a stored hidden module, with all that it stands on, and a new output module."""

    name: Name = Field(description="Of the network.")
    hidden: str = Field(
        description="Stored hidden module: id, NAME, NAME@ALIAS or NAME/VERSION. Every run looks "
        "up anew what it means: with an alias, each composes the module promoted by then."
    )
    dataset: DatasetSpec | None = Field(
        None, description="What to tell apart; the hidden module's data if left out."
    )
    output: OutputSpec = Field(OutputSpec(), title="Output module")
    seed: int = Field(0, ge=0)
    labels: str | None = Field(
        None, description="CSV file of the labels (id, class) to train on, and no others."
    )
