"""The plan of a flow: its modules in order, each of whose specs is known once the one below is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modkernel.data import DatasetInfo, LabelList
from modkernel.plan import HiddenPlan, output_spec
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import (
    DatasetFacts,
    DatasetSpec,
    KernelSpec,
    ModuleSpec,
    OutputSpec,
    Preprocessing,
    Shape,
)


@dataclass(frozen=True)
class Below:
    """What a module stands on: the data, or a module whose id is known."""

    id: str
    """Of the module, or of the data's preprocessing."""
    preprocessing: Preprocessing
    """Of the whole chain."""
    gives: Shape
    """What the next module takes of one example."""
    last_block: str | None = None
    """Where the blocks end that the chain has used; none on the data."""
    module: ModuleSpec | None = None
    """None on the data."""

    @classmethod
    def of_data(cls, info: DatasetInfo) -> Below:
        """Data, which a first module stands on."""
        preprocessing = info.preprocessing
        return cls(preprocessing.id, preprocessing, preprocessing.shape)

    @classmethod
    def of_module(cls, module_id: str, spec: ModuleSpec) -> Below:
        """A module of this id and spec."""
        last_block = spec.blocks[-1] if spec.kind == "hidden" else None
        return cls(module_id, spec.preprocessing, spec.interface.gives, last_block, spec)

    @classmethod
    def of_record(cls, record: ModuleRecord) -> Below:
        """A stored module."""
        return cls.of_module(record.id, record.spec)


@dataclass(frozen=True)
class Step:
    """One module to train."""

    name: str
    """Registered name."""
    spec_on: Callable[[Below], ModuleSpec]
    """Its spec once the module below has an id."""
    dataset: DatasetSpec
    pairs: str | None = None
    """File of pairs to train on."""
    labels: str | None = None
    """File of labels to train on."""


@dataclass(frozen=True)
class Plan:
    """Stored modules that stay as they are, first to last, and those to train on them in order."""

    below: Below
    """What the first step stands on."""
    steps: tuple[Step, ...]
    kept: tuple[ModuleRecord, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Registered names of the modules to train."""
        return tuple(step.name for step in self.steps)


def hidden_step(
    name: str,
    plan: HiddenPlan,
    facts: DatasetFacts,
    seed: int,
    dataset: DatasetSpec,
    pairs: str | None = None,
) -> Step:
    """A hidden module that was planned.

    Args:
        name: registered name.
        plan: its blocks and shapes.
        facts: what its spec says of the data.
        seed: of the weights and the order of the data.
        dataset: where the data is.
        pairs: file of pairs to train on.
    """

    def spec_on(below: Below) -> ModuleSpec:
        return plan.spec(below.id, below.preprocessing, facts, seed)

    return Step(name, spec_on, dataset, pairs)


def output_step(
    name: str,
    output: OutputSpec,
    info: DatasetInfo,
    seed: int,
    dataset: DatasetSpec,
    *,
    kernel: KernelSpec | None = None,
    labels: str | None = None,
    given: LabelList | None = None,
) -> Step:
    """An output module, to stand on a hidden one.

    Args:
        name: registered name.
        output: how it is trained.
        info: the data.
        seed: of the label draws and the order of the data.
        dataset: where the data is.
        kernel: whose features it takes; that of the module below if left out.
        labels: file of the only labels that it is trained on.
        given: what stands in that file.
    """

    def spec_on(below: Below) -> ModuleSpec:
        assert below.module is not None
        return output_spec(output, below.module, below.id, info, seed, kernel, given)

    return Step(name, spec_on, dataset, labels=labels)


def stored_already(registry: Registry, plan: Plan) -> tuple[ModuleRecord, ...]:
    """The first modules of a plan that were trained before; those after them were not."""
    found: list[ModuleRecord] = []
    below = plan.below
    for step in plan.steps:
        record = registry.modules.find_ready(step.spec_on(below).digest())
        if record is None:
            break
        found.append(record)
        below = Below.of_record(record)
    return tuple(found)
