"""The forms of what is made with single stored modules: trained on, composed, measured."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from modkernel.errors import SpecError
from modkernel.flows.compose_network import compose_network as _compose_network
from modkernel.flows.deployments.forms.fields import (
    BackboneName,
    DatasetName,
    Epochs,
    Folded,
    KernelName,
    Labels,
    Method,
    ObjectiveName,
    Path,
    Seed,
    StoredModule,
    backbone_of,
    dataset_of,
    field_of,
    inner,
    output_of,
    part,
    rest_of,
    whole,
)
from modkernel.flows.deployments.forms.network import (
    BACKBONE,
    DATASET,
    KERNEL,
    OBJECTIVE,
    TRAINING,
    hidden_of,
)
from modkernel.flows.measure_modules import measure_modules as _measure_modules
from modkernel.flows.runtime.form_flow import Blanks, Form
from modkernel.flows.specs.composition import CompositionSpec
from modkernel.flows.stored_modules.promote_module import promote_module as _promote_module
from modkernel.flows.stored_modules.stitch_modules import STITCH
from modkernel.flows.stored_modules.stitch_modules import stitch_modules as _stitch_modules
from modkernel.flows.train_module import train_module as _train_module
from modkernel.kernels import AUTO
from modkernel.spec import HiddenSpec, Name, NetworkSpec, OutputSpec

MODULE = part(
    "Advanced",
    weights=field_of(CompositionSpec, "weights"),
    until=field_of(HiddenSpec, "until"),
    dataset=DATASET,
    backbone=BACKBONE,
    kernel=KERNEL,
    objective=OBJECTIVE,
    training=TRAINING,
    tail=field_of(HiddenSpec, "tail"),
    pairs=field_of(NetworkSpec, "pairs"),
)
COMPOSITION = part(
    "Advanced",
    weights=field_of(CompositionSpec, "weights"),
    dataset=DATASET,
    output=rest_of(OutputSpec(), "labels_per_class", "method"),
)
STITCHING = part("Advanced", dataset=DATASET, fit=rest_of(STITCH, "examples"))
MEASURING = part("Advanced", dataset=DATASET)


class ModuleForm(Form):
    """A hidden module, and what it stands on."""

    name: Name = Field("digits.first", description="Of the module.")
    upstream: StoredModule | None = Field(
        None, description="Stored module to stand on; blank: a first one, on the data."
    )
    beside: tuple[StoredModule, ...] = Field(
        (), description="More stored modules to stand on, side by side; choose a backbone then."
    )
    dataset: DatasetName | None = Field(
        None, description="Blank: that of upstream; digits for a first module."
    )
    path: Path = None
    backbone: BackboneName | None = Field(
        None, description="Blank: what is left of that of upstream; an mlp for a first module."
    )
    epochs: Epochs = 30
    kernel: KernelName = AUTO
    objective: ObjectiveName = "anchor_contrastive"
    seed: Seed = 0
    advanced: Annotated[Blanks | None, Folded(MODULE)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        hidden = hidden_of(self.kernel, self.objective, self.epochs, more)
        return {
            **self.model_dump(include={"name", "seed"}),
            "upstream": self._upstream(),
            "weights": inner(more, "weights"),
            "hidden": hidden.changed(until=inner(more, "until")),
            "dataset": dataset_of(self.dataset, self.path, more),
            "backbone": self._backbone(),
            "pairs": inner(more, "pairs"),
        }

    def _upstream(self) -> tuple[str, ...] | None:
        if self.upstream is None and self.beside:
            raise SpecError("'beside' names more modules to stand on: choose the 'upstream', too.")
        return None if self.upstream is None else (self.upstream, *self.beside)

    def _backbone(self) -> Any:
        if self.backbone is not None:
            return backbone_of(self.backbone, 1, self.advanced)
        if inner(self.advanced, "backbone") is not None:
            raise SpecError(
                "'advanced.backbone' tells more of a backbone: choose the 'backbone', too."
            )
        return None


class CompositionForm(Form):
    """A network of stored hidden modules and a new output module."""

    name: Name = Field("digits-composed", description="Of the network.")
    hidden: StoredModule = Field(
        description="Stored module, with all that it stands on. NAME@ALIAS: whatever is promoted "
        "when a run begins."
    )
    beside: tuple[StoredModule, ...] = Field(
        (), description="More stored modules, whose features lie beside its own."
    )
    dataset: DatasetName | None = Field(None, description="Blank: that of the stored module.")
    path: Path = None
    labels_per_class: Labels = None
    labels: str | None = Field(
        None,
        description="CSV file of labels (id, class) to learn from; a data set's own count beside "
        "it only where some of its examples have none.",
    )
    method: Method = "cross_entropy"
    follow: bool = Field(
        False, description="Compose it again by itself whenever the alias moves to another version."
    )
    seed: Seed = 0
    advanced: Annotated[Blanks | None, Folded(COMPOSITION)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        return {
            **self.model_dump(include={"name", "labels", "seed", "follow"}),
            "hidden": (self.hidden, *self.beside),
            "weights": inner(more, "weights"),
            "dataset": dataset_of(self.dataset, self.path, more),
            "output": output_of(more, labels_per_class=self.labels_per_class, method=self.method),
        }


class MeasuringForm(Form):
    """Which stored modules are measured, and on what."""

    dataset: DatasetName = "digits"
    path: Path = None
    modules: tuple[StoredModule, ...] = Field((), description="Blank: all hidden modules.")
    features: bool = Field(
        False, description="Measure again, too, what is no longer in the feature cache."
    )
    advanced: Annotated[Blanks | None, Folded(MEASURING)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        return {
            "dataset": dataset_of(self.dataset, self.path, self.advanced),
            "modules": self.modules or None,
            "features": self.features,
        }


class PromotionForm(Form):
    """Which module is to be promoted, and what it is compared on."""

    module: StoredModule = Field(description="The candidate: a stored hidden module.")
    alias: str = Field("production", description="Of its name, without the '@'.")
    dataset: DatasetName | None = Field(None, description="Blank: the candidate's own data.")
    path: Path = None
    advanced: Annotated[Blanks | None, Folded(MEASURING)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        return {
            **self.model_dump(include={"module", "alias"}),
            "dataset": dataset_of(self.dataset, self.path, self.advanced),
        }


class StitchForm(Form):
    """Which stored module is set on which, and what the map between them is fitted to."""

    name: Name = Field("digits-stitched", description="Of the new module.")
    lower: StoredModule = Field(description="Stored module to stand on.")
    upper: StoredModule = Field(
        description="Stored module, trained on another one, of which a copy is set on it."
    )
    dataset: DatasetName | None = Field(None, description="Blank: that of the lower module.")
    path: Path = None
    examples: int = Field(
        STITCH.examples, ge=20, description="Training examples it is fitted to, without labels."
    )
    force: bool = Field(False, description="Keep it even if it is not worth it.")
    seed: int = Field(0, ge=0, description="Of the examples and their order.")
    advanced: Annotated[Blanks | None, Folded(STITCHING)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        return {
            **self.model_dump(include={"name", "lower", "upper", "force", "seed"}),
            "dataset": dataset_of(self.dataset, self.path, more),
            "stitch": whole(STITCH, inner(more, "fit"), "advanced.fit", examples=self.examples),
        }


train_module = _train_module.filled_in_by(ModuleForm, __name__)
compose_network = _compose_network.filled_in_by(CompositionForm, __name__)
measure_modules = _measure_modules.filled_in_by(MeasuringForm, __name__)
promote_module = _promote_module.filled_in_by(PromotionForm, __name__)
stitch_modules = _stitch_modules.filled_in_by(StitchForm, __name__)
