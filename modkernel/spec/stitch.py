"""How a module is set on one that it was not trained on."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec.base import Spec
from modkernel.spec.recipe import Recipe

RECIPE = Recipe(epochs=20, batch_size=128, optimizer="adam", learning_rate=3e-3, weight_decay=0.0)


class StitchSpec(Spec, title="Stitch"):
    """How the map between the two modules is fitted."""

    examples: int = Field(
        2000, ge=20, description="Unlabelled training examples it is fitted to, at most."
    )
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Share of them that is only looked at: its best epoch counts."
    )
    ridge: float = Field(
        1e-3, gt=0, description="Penalty of the closed-form start, times the inputs' mean variance."
    )
    recipe: Recipe = RECIPE
