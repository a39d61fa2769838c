"""The form of the module search."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any

from pydantic import Field

from modkernel.flows.deployments.forms.fields import (
    BackboneName,
    DatasetName,
    Epochs,
    Folded,
    OneOf,
    Path,
    backbone_of,
    dataset_of,
    field_of,
    inner,
    part,
    recipe_of,
    rest_of,
    whole,
)
from modkernel.flows.deployments.forms.network import DATASET, TRAINING
from modkernel.flows.runtime.form_flow import Blanks, Form
from modkernel.flows.search.score import score_names
from modkernel.flows.search.spec import ACCURACY, Candidate, SearchSpec, Stage
from modkernel.flows.search_modules import search_modules as _search_modules
from modkernel.kernels import AUTO
from modkernel.objectives.table import OBJECTIVES
from modkernel.spec import (
    BackboneSpec,
    HiddenSpec,
    KernelSpec,
    Name,
    ObjectiveSpec,
    OutputSpec,
)

SEARCH = part(
    "Advanced",
    dataset=DATASET,
    backbone=rest_of(BackboneSpec(), "name", "options", "width"),
    kernel=rest_of(KernelSpec(name=AUTO)),
    training=TRAINING,
    tail=field_of(HiddenSpec, "tail"),
    output=rest_of(OutputSpec()),
    seed=field_of(SearchSpec, "seed"),
)


class SearchForm(Form):
    """A search whose stages all have the same candidates: each width with each objective."""

    name: Name = Field("digits-search", description="Of the network that the best modules make.")
    dataset: DatasetName = "digits"
    path: Path = None
    backbone: BackboneName = "mlp"
    stages: int = Field(2, ge=1, description="Hidden modules of the network.")
    objectives: tuple[Annotated[str, OneOf(tuple(OBJECTIVES))], ...] = Field(
        ("anchor_contrastive", "contrastive"), description="To try in each stage."
    )
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Of the backbone, to try with each objective; none: the usual width."
    )
    epochs: Epochs = 5
    score: Annotated[str, OneOf(score_names())] = Field(
        ACCURACY, description="What decides, on held-out examples."
    )
    beam: int = Field(1, ge=1, description="Best modules of a stage that the next one stands on.")
    advanced: Annotated[Blanks | None, Folded(SEARCH)] = None

    def parameters(self) -> dict[str, Any]:
        """See `Form`."""
        more = self.advanced
        kernel = whole(KernelSpec(name=AUTO), inner(more, "kernel"), "advanced.kernel")
        recipe = recipe_of(self.epochs, more)
        candidates = tuple(
            Candidate(
                kernel=kernel,
                objective=ObjectiveSpec(name=objective),
                recipe=recipe,
                tail=inner(more, "tail") or HiddenSpec().tail,
                width=width,
            )
            for width, objective in product(self.widths or (None,), self.objectives)
        )
        spec = SearchSpec(
            name=self.name,
            dataset=dataset_of(self.dataset, self.path, more),
            backbone=backbone_of(self.backbone, self.stages, more),
            stages=(Stage(candidates=candidates),) * self.stages,
            beam=self.beam,
            score=self.score,
            output=whole(OutputSpec(), inner(more, "output"), "advanced.output"),
            seed=inner(more, "seed") or 0,
        )
        return {"spec": spec}


search_modules = _search_modules.filled_in_by(SearchForm, __name__)
