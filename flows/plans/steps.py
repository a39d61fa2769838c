"""The plan of a flow: its modules in order, each of whose specs is known once the one below is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from modkernel.data import DatasetInfo, LabelList
from modkernel.errors import SpecError
from modkernel.modules.join import check_join, have_equal_maps, joined_shape
from modkernel.plan import HiddenPlan, output_spec
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import (
    DatasetFacts,
    DatasetSpec,
    HiddenModuleSpec,
    KernelSpec,
    ModuleSpec,
    OutputSpec,
    Preprocessing,
    Shape,
    Upstream,
)
from modkernel.spec.group import GroupSpec

TO_BE_TRAINED = "to be trained"
"""The id of a module that has none yet."""


@dataclass(frozen=True)
class Below:
    """What a module stands on: the data, a module whose id is known, or several side by side."""

    upstream: tuple[Upstream, ...]
    """The modules, or the data's preprocessing."""
    preprocessing: Preprocessing
    """Of the whole chain; of several, the first one's."""
    gives: Shape
    """What the next hidden module takes of one example."""
    last_block: str | None = None
    """Where the blocks end that the chain has used; none on the data or on several modules."""
    modules: tuple[ModuleSpec, ...] = ()
    """Those that it stands on; none on the data."""

    @classmethod
    def of_data(cls, info: DatasetInfo) -> Below:
        """Data, which a first module stands on."""
        preprocessing = info.preprocessing
        return cls((Upstream(id=preprocessing.id),), preprocessing, preprocessing.shape)

    @classmethod
    def of_module(cls, module_id: str, spec: ModuleSpec) -> Below:
        """A module of this id and spec."""
        last_block = spec.blocks[-1] if spec.kind != "output" else None
        upstream = (Upstream(id=module_id),)
        return cls(upstream, spec.preprocessing, spec.interface.gives, last_block, (spec,))

    @classmethod
    def of_record(cls, record: ModuleRecord) -> Below:
        """A stored module."""
        return cls.of_module(record.id, record.spec)

    @classmethod
    def of_records(
        cls,
        records: Sequence[ModuleRecord],
        weights: Sequence[float] | None = None,
        maps: bool = False,
    ) -> Below:
        """Stored modules, side by side where they are several.

        Args:
            records: Hidden modules.
            weights: Of each in the sum of their kernels; 1 if left out.
            maps: Whether a hidden module takes their maps, where they have one height and width.

        Raises:
            InterfaceError: they cannot stand side by side, see `check_join`.
            SpecError: another number of weights, or one that is not above 0.
        """
        named = [(f"Module {one.short_id} ({one.name})", one.spec) for one in records]
        check_join(named)
        if weights is not None:
            _check_weights(weights, len(records))
        if len(records) == 1:
            return cls.of_record(records[0])
        interfaces = [one.spec.interface for one in records]
        return cls(
            tuple(
                Upstream(id=one.id, weight=weight)
                for one, weight in zip(records, weights or [1.0] * len(records), strict=True)
            ),
            records[0].spec.preprocessing,
            joined_shape(interfaces, maps and have_equal_maps(interfaces)),
            modules=tuple(one.spec for one in records),
        )


def _check_weights(weights: Sequence[float], count: int) -> None:
    if count == 1:
        raise SpecError("The weight of a single module says nothing: leave 'weights' out.")
    if len(weights) != count:
        raise SpecError(
            f"There are {len(weights)} weights for {count} modules: give one each, or leave "
            "'weights' out for equal ones."
        )
    if not all(0 < weight < math.inf for weight in weights):
        raise SpecError(
            "A weight is a number above 0: leave a module out that is to have no weight."
        )


@dataclass(frozen=True)
class Step:
    """One module to train."""

    name: str
    """Registered name."""
    spec_on: Callable[[Below], ModuleSpec]
    """Its spec once the module below has an id."""
    dataset: DatasetSpec
    pairs: str | None = None
    """What to train on in place of class labels: views, a file of pairs, or both."""
    labels: str | None = None
    """File of labels to train on."""


@dataclass(frozen=True)
class Plan:
    """Stored modules that stay as they are, first to last, and those to train on them in order."""

    below: Below
    """What the first step stands on."""
    steps: tuple[Step, ...]
    kept: tuple[ModuleRecord, ...] = ()
    in_one_pass: int = 0
    """How many of the first steps, hidden modules, are trained together; the others in turn."""

    @property
    def group(self) -> GroupSpec | None:
        """Those that are trained together; none where all are trained in turn."""
        if not self.in_one_pass:
            return None
        specs: list[HiddenModuleSpec] = []
        below = self.below
        for step in self.steps[: self.in_one_pass]:
            spec = step.spec_on(below)
            assert spec.kind == "hidden"
            specs.append(spec)
            below = Below.of_module(TO_BE_TRAINED, spec)
        return GroupSpec.of(specs)

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
        pairs: what to train on in place of class labels: views, a file of pairs, or both.
    """

    def spec_on(below: Below) -> ModuleSpec:
        return plan.spec(below.upstream, below.preprocessing, facts, seed)

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
    weights: Literal["aligned"] | None = None,
    unlabelled: str | None = None,
) -> Step:
    """An output module, to stand on a hidden one, or on several side by side.

    Args:
        name: registered name.
        output: how it is trained.
        info: the data.
        seed: of the label draws and the order of the data.
        dataset: where the data is.
        kernel: whose features it takes; that of the module below if left out.
        labels: file of the only labels that it is trained on.
        given: what stands in that file.
        weights: how those of several modules below were chosen, where held-out labels did.
        unlabelled: fingerprint of the examples without a label that may take part.
    """

    def spec_on(below: Below) -> ModuleSpec:
        assert below.modules
        on = (below.modules, below.upstream)
        return output_spec(output, *on, info, seed, kernel, given, weights, unlabelled)

    return Step(name, spec_on, dataset, labels=labels)


def stored_already(registry: Registry, plan: Plan) -> tuple[ModuleRecord, ...]:
    """The first modules of a plan that were trained before; those after them were not."""
    found: list[ModuleRecord] = []
    below, group = plan.below, plan.group
    if group is not None:
        together = registry.modules.find_group(group)
        if together is None:
            return ()
        found += together
        below = Below.of_record(together[-1])
    for step in plan.steps[plan.in_one_pass :]:
        record = registry.modules.find_ready(step.spec_on(below).digest())
        if record is None:
            break
        found.append(record)
        below = Below.of_record(record)
    return tuple(found)
