"""The form of the transfer study."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from modkernel.flows.deployments.forms.fields import (
    BackboneName,
    DatasetName,
    Epochs,
    Folded,
    KernelName,
    ObjectiveName,
    Path,
    backbone_of,
    dataset_of,
    field_of,
    inner,
    part,
    rest_of,
    whole,
)
from modkernel.flows.deployments.forms.network import (
    BACKBONE,
    KERNEL,
    OBJECTIVE,
    TRAINING,
    hidden_of,
)
from modkernel.flows.runtime.form_flow import Blanks, Form
from modkernel.flows.study.spec import StudySpec
from modkernel.flows.transfer_study import transfer_study as _transfer_study
from modkernel.kernels import AUTO
from modkernel.spec import DatasetSpec, HiddenSpec, Name

OUTPUT = StudySpec(name="defaults").output
STUDY = part(
    "Advanced",
    dataset=rest_of(DatasetSpec(), "name", "path", "groups"),
    backbone=BACKBONE,
    kernel=KERNEL,
    objective=OBJECTIVE,
    training=TRAINING,
    tail=field_of(HiddenSpec, "tail"),
    output=rest_of(OUTPUT, "labels_per_class", "spread_labels"),
    seed=field_of(StudySpec, "seed"),
    folder=(
        str | None,
        Field(None, description="For results and figures; studies/NAME in the home if left out."),
    ),
)


class StudyForm(Form):
    """A module for each task, the whole backbone, and what it is worth for the others."""

    name: Name = Field("digits-study", max_length=80, description="Modules are called NAME.TASK.")
    dataset: DatasetName = "digits"
    path: Path = None
    backbone: BackboneName = "mlp"
    epochs: Epochs = 3
    kernel: KernelName = AUTO
    objective: ObjectiveName = "anchor_contrastive"
    tasks: tuple[str, ...] = Field(
        (),
        description="Three at least, each as 'cat, dog' or 'animal=cat+dog, vehicle=truck'; "
        "none: all pairs of six classes.",
    )
    advanced: Annotated[Blanks | None, Folded(STUDY)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        spec = StudySpec(
            name=self.name,
            dataset=dataset_of(self.dataset, self.path, more),
            tasks=self.tasks or None,
            backbone=backbone_of(self.backbone, 1, more),
            hidden=hidden_of(self.kernel, self.objective, self.epochs, more),
            output=whole(OUTPUT, inner(more, "output"), "advanced.output"),
            seed=inner(more, "seed") or 0,
        )
        return {"spec": spec, "output": inner(more, "folder")}


transfer_study = _transfer_study.filled_in_by(StudyForm, __name__)
