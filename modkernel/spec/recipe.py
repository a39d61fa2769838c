"""How weights are optimised."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from modkernel.spec.base import Spec


class Recipe(Spec):
    """How weights are optimised."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(256, ge=2)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(0.1, gt=0, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["one_cycle", "cosine", "multistep", "constant"] = "one_cycle"
    milestones: tuple[int, ...] = Field(
        (), description="Epochs after which multistep divides the learning rate by ten."
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of the gradient.")
    crop_padding: int = Field(0, ge=0, description="Random crop after padding by these pixels.")
    flip: bool = Field(False, description="Random horizontal flip.")
    views: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda value: value is None,
        description="Train on this many fixed random views of each image, computed once, in place "
        "of fresh ones in every epoch: much faster on stored modules. It needs crop_padding or "
        "flip. End-to-end training always takes fresh views.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast on hardware that has it."
    )

    @property
    def augments(self) -> bool:
        """Whether training images are altered at random."""
        return self.flip or self.crop_padding > 0

    @model_validator(mode="after")
    def _check_milestones(self) -> Self:
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError("milestones go with schedule 'multistep', and it needs them")
        return self

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        if self.views is not None and not self.augments:
            raise ValueError(
                "views are random views of images: set crop_padding or flip too, or leave views out"
            )
        return self


ADAPTING_RATE = 0.01
"""Learning rate from stored weights, where none is given: a tenth of that from fresh ones."""
