"""A hidden module: the kernel, the objective and the tail that it is trained under."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WrapSerializer,
    model_validator,
)

from modkernel.spec.base import Spec
from modkernel.spec.recipe import ADAPTING_RATE, Recipe
from modkernel.spec.shorthand import from_count
from modkernel.spec.tail import Projection, Tail


class KernelSpec(Spec, title="Kernel"):
    """The kernel that compares a module's outputs."""

    name: str = Field(
        "relu_avgpool",
        description="tanh, sigmoid, relu, relu_avgpool, gaussian, or "
        "auto: relu_avgpool where the module gives maps, relu where it gives vectors.",
    )
    pool: int | None = Field(
        None, ge=1, description="Pool size of relu_avgpool in pixels; the whole map if left out."
    )
    sigma: float | None = Field(
        None,
        gt=0,
        description="Width of the gaussian kernel; the square root of the number of values that "
        "the module gives of an example if left out.",
    )
    centres: int = Field(256, ge=1, description="Number of centres of a gaussian output module.")


class ObjectiveSpec(Spec, title="Objective"):
    """The proxy objective that a hidden module maximises."""

    name: str = Field(
        "anchor_contrastive",
        description="anchor_contrastive, group_contrastive, pair_correlation, raw, nmse, "
        "alignment, upper_alignment, contrastive or log_contrastive; the last six also as "
        "NAME_neo, of negative pairs only.",
    )
    temperature: float | None = Field(
        None, gt=0, description="Divides k in exponentials; the objective's own if left out."
    )
    include_diagonal: bool | None = Field(
        None, description="Count k(i, i) too (nmse and alignment); as in the paper if left out."
    )


class HiddenSpec(Spec, title="Hidden module"):
    """One hidden module: where it ends and how it is trained."""

    until: str | None = Field(
        None,
        description="Name of the module's last block. Left out in every hidden module, "
        "the blocks are shared out evenly.",
    )
    kernel: KernelSpec = Field(
        KernelSpec(name="auto"),
        description="Left out, it follows the shape of the module's output.",
    )
    objective: ObjectiveSpec = ObjectiveSpec()
    recipe: Recipe = Recipe()
    tail: Tail = Field(
        "auto",
        description="What stands on the module while it is trained, under its kernel, and is "
        "thrown away afterwards: a number of the backbone's following blocks, names of blocks, "
        "{projection: UNITS}, none, or auto: the first block of each later stage; none on the "
        "last hidden module.",
    )
    projection: int | None = Field(
        None, ge=1, exclude=True, repr=False, description="Short for tail: {projection: UNITS}."
    )
    start_from: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Stored module of the same blocks and shapes whose weights training starts "
        "from, at a tenth of the usual learning rate if none is given: id, NAME, NAME@ALIAS or "
        "NAME/VERSION.",
    )
    freeze: float = Field(
        0.0,
        ge=0,
        lt=1,
        exclude_if=lambda value: value == 0,
        description="Share of its blocks, the first ones, that stay as start_from has them.",
    )

    @model_validator(mode="after")
    def _one_tail(self) -> Self:
        if self.projection is not None:
            if "tail" in self.model_fields_set and self.tail != "auto":
                raise ValueError("'projection' is short for a 'tail': give one of the two")
            self.__dict__["tail"] = Projection(projection=self.projection)
            self.__dict__["projection"] = None
            self.__pydantic_fields_set__.add("tail")
        return self

    @model_validator(mode="after")
    def _slow_down(self) -> Self:
        # A validator before would have lists for tuples, which stored specs are not read with.
        if self.start_from is not None and "learning_rate" not in self.recipe.model_fields_set:
            self.__dict__["recipe"] = self.recipe.changed(learning_rate=ADAPTING_RATE)
            self.__pydantic_fields_set__.add("recipe")
        return self

    @model_validator(mode="after")
    def _check_freeze(self) -> Self:
        if self.freeze and self.start_from is None:
            raise ValueError("'freeze' keeps weights that 'start_from' names: give that too")
        return self

    def frozen(self, blocks: Sequence[str]) -> int:
        """How many of a module's blocks, the first ones, are not trained."""
        return int(self.freeze * len(blocks) + 1e-9)  # 0.7 of 10 blocks are 7.


def _with_sigma(kernel: KernelSpec) -> KernelSpec:
    """As what is stored has it: with a sigma, also where it has no meaning."""
    if kernel.sigma is not None:
        return kernel
    if kernel.name == "gaussian":
        raise ValueError("a sigma that is left out is to be planned: see modkernel.kernels.fitting")
    return kernel.changed(sigma=1.0)


ResolvedKernel = Annotated[KernelSpec, AfterValidator(_with_sigma)]
"""A kernel whose sigma is a number."""


def _resolved(hidden: HiddenSpec) -> HiddenSpec:
    """As what is stored has it: without a tail where none is said, and with the kernel's sigma."""
    hidden = hidden.model_copy(update={"kernel": _with_sigma(hidden.kernel)})
    if "tail" not in hidden.model_fields_set:
        return hidden.model_copy(update={"tail": "none"})
    if hidden.tail == "auto" or isinstance(hidden.tail, int):
        raise ValueError(f"tail: {hidden.tail} is to be planned: see modkernel.plan.plan_hidden")
    return hidden


def _stored(hidden: HiddenSpec, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
    """As what is stored always had it: the units of a projection by themselves, null if none."""
    fields: dict[str, Any] = write(hidden)
    tail = hidden.tail
    units = tail.projection if isinstance(tail, Projection) else None
    if not isinstance(tail, tuple):
        fields.pop("tail", None)
    return {**fields, "projection": units}


ResolvedHidden = Annotated[HiddenSpec, AfterValidator(_resolved), WrapSerializer(_stored)]
"""A hidden module whose tail, if it has one, is blocks by name or a projection."""


HiddenModules = Annotated[tuple[HiddenSpec, ...], BeforeValidator(from_count)]
"""Hidden modules, or their number."""
