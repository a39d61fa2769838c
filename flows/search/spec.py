"""What a module search is asked for: one YAML file, or one form."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    Name,
    OutputSpec,
    Spec,
)

ACCURACY = "accuracy"
"""The score that is no score of moments: held-out accuracy of a ridge output module."""


class Candidate(HiddenSpec, title="Candidate"):
    """One hidden module that competes for a stage."""

    width: int | None = Field(
        None,
        ge=1,
        description="Width of the backbone in this module; the search's backbone's if left out.",
    )

    def hidden(self, until: str) -> HiddenSpec:
        """The hidden module, which ends at a block where the candidate does not say so itself."""
        fields = {name: getattr(self, name) for name in HiddenSpec.model_fields}
        return HiddenSpec(**(fields | {"until": self.until or until}))


class Stage(Spec, title="Stage"):
    """The candidates for one place in the network."""

    candidates: tuple[Candidate, ...] = Field(
        min_length=1, description="Hidden modules that compete for this place; one or more."
    )


class SearchSpec(Spec, title="Module search"):
    """A search for the modules of one network, a stage after the other."""

    name: Name = Field(
        description="Name of the network; the candidates of stage k are versions of NAME.hidden-k."
    )
    dataset: DatasetSpec = DatasetSpec()
    backbone: BackboneSpec = Field(
        BackboneSpec(),
        description="What every candidate is cut from; a candidate may have its own width.",
    )
    stages: tuple[Stage, ...] = Field(
        min_length=1,
        description="First to last. A candidate that names no last block ends where the blocks, "
        "shared out evenly among the stages, say.",
    )
    beam: int = Field(
        1, ge=1, description="How many modules of a stage the next stage's candidates stand on."
    )
    score: str = Field(
        ACCURACY,
        description="What decides: accuracy (of a ridge output module, on held-out examples), or "
        "a score of class moments: logme, h_score, lda, …",
    )
    output: OutputSpec = Field(OutputSpec(), title="Output module")
    seed: int = Field(0, ge=0)
