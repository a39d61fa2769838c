"""What a user asks for: frozen, strict descriptions with a canonical JSON form and a digest.

`NetworkSpec` is what one YAML file describes. `ModuleSpec` is what is stored beside a module's
weights: everything that decided its training.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from modkernel.spec.backbone import MOST_BLOCKS as MOST_BLOCKS
from modkernel.spec.backbone import BackboneSpec as BackboneSpec
from modkernel.spec.base import Shape as Shape
from modkernel.spec.base import Spec as Spec
from modkernel.spec.dataset import DatasetSpec as DatasetSpec
from modkernel.spec.facts import DatasetFacts as DatasetFacts
from modkernel.spec.fields import ClassName as ClassName
from modkernel.spec.fields import Groups as Groups
from modkernel.spec.fields import ImageSize as ImageSize
from modkernel.spec.fields import Label as Label
from modkernel.spec.hidden import HiddenModules as HiddenModules
from modkernel.spec.hidden import HiddenSpec as HiddenSpec
from modkernel.spec.hidden import KernelSpec as KernelSpec
from modkernel.spec.hidden import ObjectiveSpec as ObjectiveSpec
from modkernel.spec.hidden import ResolvedHidden as ResolvedHidden
from modkernel.spec.hidden import ResolvedKernel as ResolvedKernel
from modkernel.spec.origin import Licence as Licence
from modkernel.spec.origin import Origin as Origin
from modkernel.spec.pairs import PairsFrom as PairsFrom
from modkernel.spec.pairs import pairs_from as pairs_from
from modkernel.spec.pairs import view_objective as view_objective
from modkernel.spec.pairs import with_file as with_file
from modkernel.spec.preprocessing import ImageReading as ImageReading
from modkernel.spec.preprocessing import Preprocessing as Preprocessing
from modkernel.spec.recipe import Recipe as Recipe
from modkernel.spec.stitch import StitchSpec as StitchSpec
from modkernel.spec.tail import Projection as Projection
from modkernel.spec.tail import Tail as Tail
from modkernel.spec.together import TogetherSpec as TogetherSpec
from modkernel.spec.upstream import Upstream as Upstream
from modkernel.spec.upstream import Upstreams as Upstreams

FORMAT_VERSION = 1
"""Version of the stored form and of the training code's meaning; part of every recipe digest."""

Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=100,
        description="Lower-case letters, digits, '.', '_' and '-'.",
    ),
]


class OutputSpec(Spec, title="Output module"):
    """The output module: how it is trained and on how many labels."""

    method: Literal["cross_entropy", "hinge", "ridge"] = "cross_entropy"
    labels_per_class: int | None = Field(
        None, ge=1, description="Labels per class; all of them if left out."
    )
    draws: int = Field(
        1, ge=1, description="Random draws of the labels; the first one's module is stored."
    )
    spread_labels: bool = Field(
        False,
        exclude_if=lambda value: not value,
        description="First spread the labels over the training examples that have none, along "
        "nearest neighbours in the features (label propagation). For few labels.",
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
        description="What the hidden modules are trained on in place of the pairs that the class "
        "labels give: a CSV or Parquet file of pairs (example, example, 0 or 1); views, random "
        "views of each example and no label at all; views+labels; or views+FILE.",
    )
    train: Literal["in turn", "together"] = Field(
        "in turn",
        exclude_if=lambda value: value == "in turn",
        description="in turn: each hidden module in a pass of its own, on those below as they are "
        "stored. together: all in one pass, with no gradient between them.",
    )
    seed: int = Field(0, ge=0)

    @property
    def in_one_pass(self) -> bool:
        """Whether hidden modules are trained together; of one alone both are the same."""
        return self.train == "together" and len(self.hidden) > 1


class Interface(Spec):
    """What a module takes and gives. Equal shapes never suffice: `upstream` must match too.

    On one upstream it takes what that gives; on several, their unit features side by side, each
    times √weight, or, where it takes maps, their maps with the channels side by side.
    """

    upstream: Upstreams
    takes: Shape
    gives: Shape
    dtype: Literal["float32"] = "float32"
    kernel: ResolvedKernel = Field(
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

    @property
    def learnt_from(self) -> tuple[DatasetFacts, ...]:
        """All data that its weights were fitted to."""
        return (self.dataset,)


class HiddenModuleSpec(_ModuleSpec):
    """What is stored beside a hidden module's weights. Its digest is the recipe digest."""

    kind: Literal["hidden"] = "hidden"
    backbone: BackboneSpec
    blocks: tuple[str, ...] = Field(min_length=1, description="Of the backbone, in order.")
    hidden: ResolvedHidden = Field(description="With the id of the module that it starts from.")
    source: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Name of the module that it starts from; that may be deleted.",
    )
    source_data: tuple[DatasetFacts, ...] = Field(
        (),
        exclude_if=lambda value: not value,
        description="What that module had learnt from, and so this one has.",
    )
    together: TogetherSpec | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="What it was trained together with; none if it was trained by itself.",
    )

    @property
    def learnt_from(self) -> tuple[DatasetFacts, ...]:
        """Its own data, and what it starts from had learnt from."""
        return (self.dataset, *self.source_data)

    @property
    def recipe(self) -> Recipe:
        """How its weights were optimised."""
        return self.hidden.recipe

    @property
    def classes(self) -> None:
        """None: a hidden module knows no classes."""


class ImportedModuleSpec(_ModuleSpec):
    """What is stored beside the weights of a module of a network that was trained elsewhere."""

    kind: Literal["imported"] = "imported"
    backbone: BackboneSpec
    blocks: tuple[str, ...] = Field(min_length=1, description="Of the backbone, in order.")
    origin: Origin

    @property
    def recipe(self) -> Recipe:
        """The default one: nothing is known of its training."""
        return Recipe()

    @property
    def classes(self) -> None:
        """None: an imported module knows no classes."""


class StitchModuleSpec(_ModuleSpec):
    """What is stored beside a stitch's weights. Its digest is the recipe digest.

    A stitch is a map and, on it, a copy of a hidden module that was trained on another upstream.
    """

    kind: Literal["stitch"] = "stitch"
    upper: HiddenModuleSpec | ImportedModuleSpec = Field(
        discriminator="kind", description="Of the module that it has a copy of."
    )
    upper_id: str = Field(description="Id of that module.")
    stitch: StitchSpec

    @property
    def learnt_from(self) -> tuple[DatasetFacts, ...]:
        """The map's, and the copy's."""
        return (self.dataset, *self.upper.learnt_from)

    @property
    def backbone(self) -> BackboneSpec:
        """What the blocks of the copy are of."""
        return self.upper.backbone

    @property
    def blocks(self) -> tuple[str, ...]:
        """Of the copy."""
        return self.upper.blocks

    @property
    def recipe(self) -> Recipe:
        """How the map was fitted."""
        return self.stitch.recipe

    @property
    def classes(self) -> None:
        """None: a stitch knows no classes."""


class OutputModuleSpec(_ModuleSpec):
    """What is stored beside an output module's weights. Its digest is the recipe digest."""

    kind: Literal["output"] = "output"
    output: OutputSpec
    classes: tuple[str, ...] = Field(description="In the order of the logits.")
    weights: Literal["aligned"] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="How the weights of the modules below were chosen, where held-out labels did.",
    )

    @property
    def recipe(self) -> Recipe:
        """How its weights were optimised."""
        return self.output.recipe


AnyHiddenSpec = HiddenModuleSpec | ImportedModuleSpec | StitchModuleSpec
"""Of every kind of module that others stand on."""
ModuleSpec = Annotated[
    AnyHiddenSpec | OutputModuleSpec,
    Field(discriminator="kind"),
]
"""What is stored beside a module's weights, one form a kind; fully resolved."""

_module_spec: TypeAdapter[AnyHiddenSpec | OutputModuleSpec] = TypeAdapter(ModuleSpec)


def parse_module_spec(content: bytes | str, strict: bool = False) -> ModuleSpec:
    """A module's spec of its JSON form.

    Args:
        content: JSON.
        strict: refuse values that would have to be converted.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _module_spec.validate_json(content, strict=strict)
