"""What a transfer study is asked for: one YAML file, or one form in Prefect."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    Name,
    OutputSpec,
    Recipe,
    Spec,
)


class StudySpec(Spec, title="Transfer study"):
    """A set of tasks on one data set, and how a module is trained and evaluated for each."""

    name: Name = Field(
        max_length=80, description="Name of the study; its modules are called NAME.TASK."
    )
    dataset: DatasetSpec = Field(
        DatasetSpec(),
        description="The whole data set. Tasks choose and join its classes, so it has no groups.",
    )
    tasks: tuple[str, ...] | None = Field(
        None,
        description="At least three tasks, each as 'cat, dog' or with joined classes as "
        "'animal=cat+dog, vehicle=truck'. Left out: all pairs of deer, horse, cat, dog, automobile "
        "and truck if the data has these, else all pairs of its first six classes.",
    )
    backbone: BackboneSpec = Field(
        BackboneSpec(name="resnet18", width=16), description="Of every task's module."
    )
    hidden: HiddenSpec = Field(
        HiddenSpec(recipe=Recipe(epochs=5, batch_size=64, learning_rate=0.2, flip=True)),
        description="The one hidden module that is trained for every task, the whole backbone.",
    )
    output: OutputSpec = Field(
        # Fitted to the end: with a larger penalty, or few epochs, what a module of another task
        # gives is underrated by some points (docs/reuse.md).
        OutputSpec(method="ridge", ridge=1e-5),
        title="Output module",
        description="The ground truth is its test accuracy on each module for each task, with all "
        "labels.",
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.output.labels_per_class is not None:
            raise ValueError(
                "the ground truth uses all labels: leave labels_per_class out of output"
            )
        if self.dataset.groups is not None:
            raise ValueError(
                "tasks join classes themselves: leave groups out of dataset, and write the task as "
                "'animal=cat+dog, vehicle=truck'"
            )
        return self
