"""The forms of whole networks: trained module by module, end to end, or from a stage on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

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
    StoredNetwork,
    StoredStage,
    backbone_of,
    dataset_of,
    field_of,
    inner,
    output_of,
    part,
    recipe_of,
    rest_of,
    whole,
)
from modkernel.flows.plans.retrain import OUTPUT, Changes
from modkernel.flows.retrain_network import retrain_network as _retrain_network
from modkernel.flows.runtime.form_flow import Blanks, Form
from modkernel.flows.train_baseline import train_baseline as _train_baseline
from modkernel.flows.train_network import train_network as _train_network
from modkernel.kernels import AUTO
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    Name,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)

DATASET = rest_of(DatasetSpec(), "name", "path")
BACKBONE = rest_of(BackboneSpec(), "name", "options")
TRAINING = rest_of(Recipe(), "epochs")
KERNEL = rest_of(KernelSpec(), "name")
OBJECTIVE = rest_of(ObjectiveSpec(), "name")

NETWORK = part(
    "Advanced",
    dataset=DATASET,
    backbone=BACKBONE,
    kernel=KERNEL,
    objective=OBJECTIVE,
    training=TRAINING,
    tail=field_of(HiddenSpec, "tail"),
    output=rest_of(OutputSpec(), "labels_per_class", "method"),
    pairs=field_of(NetworkSpec, "pairs"),
    train=field_of(NetworkSpec, "train"),
    seed=field_of(NetworkSpec, "seed"),
)
BASELINE = part("Advanced", dataset=DATASET, backbone=BACKBONE, training=TRAINING)
RETRAINING = part(
    "Advanced",
    hidden=field_of(Changes, "hidden"),
    backbone=field_of(Changes, "backbone"),
    output=field_of(Changes, "output"),
    dataset=DATASET,
    pairs=field_of(Changes, "pairs"),
)


class NetworkForm(Form):
    """A network, all of whose hidden modules are trained alike."""

    name: Name = Field(
        "digits",
        description="Of lower-case letters, digits, '.', '_' and '-'.",
    )
    dataset: DatasetName = "digits"
    path: Path = None
    backbone: BackboneName = "mlp"
    hidden_modules: int = Field(2, ge=1, description="Which share the blocks out evenly.")
    epochs: Epochs = 30
    kernel: KernelName = AUTO
    objective: ObjectiveName = "anchor_contrastive"
    labels_per_class: Labels = None
    method: Method = "cross_entropy"
    advanced: Annotated[Blanks | None, Folded(NETWORK)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        hidden = hidden_of(self.kernel, self.objective, self.epochs, more)
        spec = NetworkSpec(
            name=self.name,
            dataset=dataset_of(self.dataset, self.path, more),
            backbone=backbone_of(self.backbone, self.hidden_modules, more),
            hidden=(hidden,) * self.hidden_modules,
            output=output_of(more, labels_per_class=self.labels_per_class, method=self.method),
            pairs=inner(more, "pairs"),
            train=inner(more, "train") or "in turn",
            seed=inner(more, "seed") or 0,
        )
        return {"spec": spec}


class BaselineForm(Form):
    """A network that is trained end to end."""

    name: Name = Field("digits", description="Of the network that it is compared with.")
    dataset: DatasetName = "digits"
    path: Path = None
    backbone: BackboneName = "mlp"
    hidden_modules: int = Field(2, ge=1, description="Of that network: an mlp has a layer each.")
    epochs: int = Field(30, ge=1)
    kernel: KernelName = AUTO
    seed: Seed = 0
    advanced: Annotated[Blanks | None, Folded(BASELINE)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        spec = NetworkSpec(
            name=self.name,
            dataset=dataset_of(self.dataset, self.path, more),
            backbone=backbone_of(self.backbone, self.hidden_modules, more),
            hidden=(
                HiddenSpec(
                    kernel=KernelSpec(name=self.kernel), recipe=recipe_of(self.epochs, more)
                ),
            ),
            seed=self.seed,
        )
        return {"spec": spec}


class RetrainingForm(Form):
    """What of a stored network is trained again, and what is to be other than it was."""

    network: StoredNetwork
    stage: StoredStage = Field(OUTPUT, description="The first module to train again.")
    name: Name | None = Field(None, description="Of the new network; blank: the same.")
    seed: int | None = Field(None, ge=0, description="Another one gives other weights.")
    labels: str | None = Field(
        None,
        description="CSV file of labels (id, class) for the output module; a data set's own count "
        "beside it only where some of its examples have none.",
    )
    dataset: DatasetName | None = Field(None, description="Blank: the modules' own.")
    path: Path = None
    advanced: Annotated[Blanks | None, Folded(RETRAINING)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        return {
            **self.model_dump(include={"network", "stage", "name", "seed", "labels"}),
            "dataset": dataset_of(self.dataset, self.path, more),
            **{name: inner(more, name) for name in ("hidden", "backbone", "output", "pairs")},
        }


def hidden_of(kernel: str, objective: str, epochs: int, advanced: Blanks | None) -> HiddenSpec:
    """The hidden module that a form asks for."""
    return HiddenSpec(
        kernel=whole(KernelSpec(), inner(advanced, "kernel"), "advanced.kernel", name=kernel),
        objective=whole(
            ObjectiveSpec(), inner(advanced, "objective"), "advanced.objective", name=objective
        ),
        recipe=recipe_of(epochs, advanced),
        tail=inner(advanced, "tail") or HiddenSpec().tail,
    )


train_network = _train_network.filled_in_by(NetworkForm, __name__)
train_baseline = _train_baseline.filled_in_by(BaselineForm, __name__)
retrain_network = _retrain_network.filled_in_by(RetrainingForm, __name__)
