"""What modules are cut from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modkernel.spec.base import Spec

MOST_BLOCKS = 1000
"""Blocks of a backbone, at most: each is built once when a network is planned."""


class BackboneSpec(Spec, title="Backbone"):
    """An ordered list of named blocks that can be cut between any two of them."""

    name: str = Field(
        "mlp",
        description="mlp, lenet5, resnet18, resnet34, resnet50, resnet101, resnet152, "
        "torchvision/NAME or timm/NAME, or the import path 'package.module:function' of your own.",
    )
    width: int | None = Field(
        None, ge=1, description="Units (mlp) or channels of the first stage; the usual if left out."
    )
    depth: int = Field(
        2, ge=1, le=MOST_BLOCKS, description="Number of layers of an mlp; others ignore it."
    )
    activation: Literal["relu", "tanh", "sigmoid"] = Field(
        "relu", description="Nonlinearity between the layers."
    )
    options: dict[str, int | float | str | bool] = Field(
        default_factory=dict, description="Arguments of your own backbone function."
    )
    whole: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="Your own function takes the options as its arguments and returns a whole "
        "torch network, which may be cut wherever a single tensor passes.",
    )
