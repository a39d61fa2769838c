"""What a user asks for: frozen, strict descriptions with a canonical JSON form and a digest.

`NetworkSpec` is what one YAML file describes. `ModuleSpec` is what is stored beside a module's
weights: everything that decided its training.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from modkernel.spec.base import Shape as Shape
from modkernel.spec.base import Spec as Spec
from modkernel.spec.facts import DatasetFacts as DatasetFacts
from modkernel.spec.fields import ClassName as ClassName
from modkernel.spec.fields import Groups as Groups
from modkernel.spec.fields import ImageSize as ImageSize
from modkernel.spec.fields import Label as Label
from modkernel.spec.preprocessing import ImageReading as ImageReading
from modkernel.spec.preprocessing import Preprocessing as Preprocessing
from modkernel.spec.shorthand import from_count
from modkernel.spec.upstream import Upstream as Upstream
from modkernel.spec.upstream import Upstreams as Upstreams

FORMAT_VERSION = 1
"""Version of the stored form and of the training code's meaning; part of every recipe digest."""

MOST_BLOCKS = 1000
"""Blocks of a backbone, at most: each is built once when a network is planned."""

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=100,
        description="Lower-case letters, digits, '.', '_' and '-'.",
    ),
]


class DatasetSpec(Spec, title="Data set"):
    """A data set, a subset of its classes, and how it is split."""

    name: str = Field(
        "digits",
        description="digits, mnist, fashion_mnist, cifar10, cifar100, svhn, image_folder, arrays, "
        "table, huggingface, or the import path 'package.module:function' of your own loader.",
    )
    path: str | None = Field(
        None,
        description="Folder of image_folder or huggingface, file of arrays or a table, or a name "
        "that each machine's data_paths gives a path.",
    )
    label: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Column of a table, or of a huggingface folder, that has the classes.",
    )
    classes: tuple[ClassName, ...] | None = Field(
        None, description="Only these classes, by name; all of them if left out."
    )
    groups: Groups | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Classes joined under new names, such as "
        '{"animal": ["cat", "dog"], "vehicle": ["car", "ship"]}; not together with classes.',
    )
    image_size: ImageSize | None = Field(
        None, description="Side in pixels that images are resized to, or [height, width]."
    )
    channels: Literal[1, 3] | None = Field(
        None, description="1 converts images to grey, 3 to colour; as they are if left out."
    )
    value_range: tuple[float, float] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Values that become black and white in grey images of more than 8 bits; the "
        "training images' smallest and largest if left out.",
    )
    background: int | None = Field(
        None,
        ge=0,
        le=255,
        exclude_if=lambda value: value is None,
        description="Grey level that transparent images are laid on; white (255) if left out, or "
        "another that images of nearly that colour stand out from.",
    )
    unlabelled: Label | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Label or class name that stands for 'no label', such as -1: its examples are "
        "left out.",
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training examples kept for validation."
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share kept for testing where the set has no test part."
    )
    split_seed: int = Field(0, ge=0, description="Seed of the split.")

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        if self.groups is not None and self.classes is not None:
            raise ValueError(
                "give 'classes' or 'groups', not both: a class that is in no group is left out"
            )
        return self

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError("'value_range' is [low, high] with low < high")
        return self

    def side_lengths(self) -> tuple[int, int] | None:
        """Height and width that images are resized to, if they are."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size


class BackboneSpec(Spec, title="Backbone"):
    """An ordered list of named blocks that can be cut between any two of them."""

    name: str = Field(
        "mlp",
        description="mlp, lenet5, resnet18, resnet34, resnet50, resnet101, resnet152, "
        "or the import path 'package.module:function' of your own.",
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
    sigma: float = Field(1.0, gt=0, description="Width of the gaussian kernel.")
    centres: int = Field(256, ge=1, description="Number of centres of a gaussian output module.")


class ObjectiveSpec(Spec, title="Objective"):
    """The proxy objective that a hidden module maximises."""

    name: str = Field(
        "anchor_contrastive",
        description="anchor_contrastive, pair_correlation, raw, nmse, alignment, upper_alignment, "
        "contrastive or log_contrastive; these six also as NAME_neo, of negative pairs only.",
    )
    temperature: float | None = Field(
        None, gt=0, description="Divides k in exponentials; the objective's own if left out."
    )
    include_diagonal: bool | None = Field(
        None, description="Count k(i, i) too (nmse and alignment); as in the paper if left out."
    )


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
    projection: int | None = Field(
        None, ge=1, description="Units of a projection head used only while training."
    )


class OutputSpec(Spec, title="Output module"):
    """The output module: how it is trained and on how many labels."""

    method: Literal["cross_entropy", "hinge", "ridge"] = "cross_entropy"
    labels_per_class: int | None = Field(
        None, ge=1, description="Labels per class; all of them if left out."
    )
    draws: int = Field(
        1, ge=1, description="Random draws of the labels; the first one's module is stored."
    )
    ridge: float = Field(1e-3, gt=0, description="Penalty of method 'ridge', times n.")
    recipe: Recipe = Recipe(epochs=20, optimizer="adam", learning_rate=0.02, weight_decay=0.0)
    minimum_steps: int = Field(
        200, ge=1, description="Steps of the optimiser at least, however few the labels."
    )

    @model_validator(mode="after")
    def _check_recipe(self) -> Self:
        if self.recipe.augments:  # Views too: they need one of the two.
            raise ValueError(
                "an output module is trained on features of unaltered images: leave crop_padding, "
                "flip and views out of its recipe"
            )
        return self


HiddenModules = Annotated[tuple[HiddenSpec, ...], BeforeValidator(from_count)]
"""Hidden modules, or their number."""


class NetworkSpec(Spec, title="Network"):
    """One network: data, backbone, hidden modules in order, output module."""

    name: Name = Field(description="Name of the network; its modules are named after it.")
    dataset: DatasetSpec = DatasetSpec()
    backbone: BackboneSpec = BackboneSpec()
    hidden: HiddenModules = Field(
        (HiddenSpec(),),
        min_length=1,
        title="Hidden modules",
        description="First to last; or their number, where all of each is the default.",
    )
    output: OutputSpec | None = Field(
        OutputSpec(), title="Output module", description="null trains the hidden modules alone."
    )
    pairs: str | None = Field(
        None,
        description="CSV or Parquet file of pairs (example, example, 0 or 1) to train the hidden "
        "modules on, in place of the pairs that the class labels give.",
    )
    seed: int = Field(0, ge=0)


class Interface(Spec):
    """What a module takes and gives. Equal shapes never suffice: `upstream` must match too.

    On one upstream it takes what that gives; on several, their unit features side by side, each
    times √weight, or, where it takes maps, their maps with the channels side by side.
    """

    upstream: Upstreams
    takes: Shape
    gives: Shape
    dtype: Literal["float32"] = "float32"
    kernel: KernelSpec = Field(
        description="Hidden: what compares its outputs. Output: the features it takes; 'joined' on "
        "several modules, whose features are joined already."
    )

    @property
    def stands_on(self) -> tuple[str, ...]:
        """Ids of the modules that it stands on, in order, or of the preprocessing."""
        return tuple(one.id for one in self.upstream)

    @property
    def joins(self) -> bool:
        """Whether it stands on several modules."""
        return len(self.upstream) > 1


class _ModuleSpec(Spec):
    """What the specs of hidden and output modules share."""

    format: int = FORMAT_VERSION
    interface: Interface
    dataset: DatasetFacts
    seed: int
    preprocessing: Preprocessing = Field(
        description="Of the whole chain, from its first module; on several upstreams that of the "
        "first: each keeps its own."
    )


class HiddenModuleSpec(_ModuleSpec):
    """What is stored beside a hidden module's weights. Its digest is the recipe digest."""

    kind: Literal["hidden"] = "hidden"
    backbone: BackboneSpec
    blocks: tuple[str, ...] = Field(min_length=1, description="Of the backbone, in order.")
    hidden: HiddenSpec

    @property
    def recipe(self) -> Recipe:
        """How its weights were optimised."""
        return self.hidden.recipe

    @property
    def classes(self) -> None:
        """None: a hidden module knows no classes."""


class OutputModuleSpec(_ModuleSpec):
    """What is stored beside an output module's weights. Its digest is the recipe digest."""

    kind: Literal["output"] = "output"
    output: OutputSpec
    classes: tuple[str, ...] = Field(description="In the order of the logits.")

    @property
    def recipe(self) -> Recipe:
        """How its weights were optimised."""
        return self.output.recipe


ModuleSpec = Annotated[HiddenModuleSpec | OutputModuleSpec, Field(discriminator="kind")]
"""What is stored beside a module's weights, one form a kind; fully resolved."""

_module_spec: TypeAdapter[HiddenModuleSpec | OutputModuleSpec] = TypeAdapter(ModuleSpec)


def parse_module_spec(content: bytes | str, strict: bool = False) -> ModuleSpec:
    """A module's spec of its JSON form.

    Args:
        content: JSON.
        strict: refuse values that would have to be converted.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _module_spec.validate_json(content, strict=strict)
