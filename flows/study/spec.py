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


class OtherData(Spec, title="Other data"):
    """Another data set with tasks of its own."""

    dataset: DatasetSpec = Field(description="It has no groups, and examples of the same shape.")
    tasks: tuple[str, ...] | None = Field(
        None, description="As of the study; one at least. Left out: pairs, as there."
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
    others: tuple[OtherData, ...] = Field(
        (),
        description="More data sets: modules of all tasks are evaluated on all tasks. Their "
        "examples must have one shape, so give image_size and channels where they differ: images "
        "are resized, and made grey or given three equal channels.",
    )
    backbone: BackboneSpec = Field(
        BackboneSpec(name="resnet18", width=16), description="Of every task's module."
    )
    shelf: tuple[BackboneSpec, ...] | None = Field(
        None,
        min_length=2,
        description="Backbones of the tasks' modules in turn, in place of one for all: the first "
        "task's is the first, and after the last comes the first again.",
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
        if self.output.labels_per_class is not None or self.output.spread_labels:
            raise ValueError(
                "the ground truth uses all labels: leave labels_per_class and spread_labels out of "
                "output"
            )
        if any(one.groups for one in (self.dataset, *(other.dataset for other in self.others))):
            raise ValueError(
                "tasks join classes themselves: leave groups out of dataset, and write the task as "
                "'animal=cat+dog, vehicle=truck'"
            )
        return self
