"""Which modules of a stored network are kept and how those from a stage on are trained again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modkernel.data import DatasetInfo
from modkernel.errors import NotFoundError, SpecError
from modkernel.flows.plans import datasets
from modkernel.plan import (
    check_hidden,
    check_output,
    check_whole,
    facts,
    output_spec,
    plan_hidden,
    stands_on,
)
from modkernel.registry import ModuleRecord, NetworkRecord, Registry
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenModuleSpec,
    HiddenSpec,
    KernelSpec,
    ModuleSpec,
    OutputModuleSpec,
    OutputSpec,
    Spec,
)

OUTPUT = "output"

Below = tuple[str, ModuleSpec] | None
"""Id and spec of the module under the next one; none under a first one."""


class Wishes(Spec):
    """What is to be other than it was; what is left out stays as it was."""

    hidden: tuple[HiddenSpec, ...] | None = None
    output: OutputSpec | None = None
    backbone: BackboneSpec | None = None
    dataset: DatasetSpec | None = None
    pairs: str | None = None
    labels: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Step:
    """One module to train: its name, its data, and its spec once the module below has an id."""

    name: str
    dataset: DatasetSpec
    pairs: str | None
    labels: str | None
    spec_on: Callable[[Below], ModuleSpec]


@dataclass(frozen=True)
class RetrainPlan:
    """Modules that are kept, first to last, and those that are trained on them."""

    kept: tuple[ModuleRecord, ...]
    steps: tuple[Step, ...]

    @property
    def below(self) -> Below:
        """The last module that is kept."""
        return (self.kept[-1].id, self.kept[-1].spec) if self.kept else None


def plan_again(
    registry: Registry, network: NetworkRecord, stage: str, name: str, wishes: Wishes
) -> RetrainPlan:
    """Resolve what is kept and what is trained, and see that all of it can be.

    Args:
        registry: has the network.
        network: whose modules from a stage on are replaced.
        stage: 1, 2, …, 'output', or a module's name.
        name: of the new network, after which the new modules are named.
        wishes: what changes.

    Raises:
        NotFoundError: the network has no such stage.
        SpecError: hidden modules for the output stage, labels for no output module, or data that
            cannot be found again.
        DataError, PairError, LabelBudgetError, InterfaceError, CutError, ObjectiveError,
        UnknownNameError: a module that cannot be trained.
    """
    modules = registry.networks.members(network)
    hidden = [module for module in modules if module.kind == "hidden"]
    first = _position(network, modules, stage, wishes)
    at_output = first == len(hidden)
    if at_output and (wishes.hidden is not None or wishes.backbone is not None):
        raise SpecError(
            "Nothing but the output module is trained again from stage 'output': leave 'hidden' "
            "and 'backbone' out, or name the first hidden module to replace."
        )
    if wishes.backbone is not None and wishes.hidden is None:
        raise SpecError(
            "A 'backbone' replaces no module by itself: give 'hidden', the modules that are cut "
            "from it."
        )
    kept = tuple(modules[:first])
    if wishes.hidden is not None:
        steps = _replaced(registry, network, hidden, first, name, wishes)
    else:
        steps = [
            _again(registry, network, record, f"{name}.hidden-{k}", wishes)
            for k, record in enumerate(hidden[first:], start=first + 1)
        ]
    old_output = modules[-1] if modules[-1].kind == OUTPUT else None
    if old_output is not None or wishes.output is not None:
        # Where nothing is kept, the new modules take the data as it is, whatever the old ones took.
        top = hidden[-1] if kept or wishes.hidden is None else None
        steps.append(_output(registry, hidden[-1], top, old_output, name, wishes))
    elif wishes.labels is not None:
        raise SpecError(
            f"Network {network.name} ({network.short_id}) has no output module that a file of "
            "labels could train: leave the labels out, or give an 'output' in --spec."
        )
    return RetrainPlan(kept, tuple(steps))


def _position(
    network: NetworkRecord, modules: Sequence[ModuleRecord], stage: str, wishes: Wishes
) -> int:
    """How many modules come before a stage."""
    names = {module.name: place for place, module in enumerate(modules)}
    places = {str(place + 1): place for place, m in enumerate(modules) if m.kind == "hidden"}
    has_output = modules[-1].kind == OUTPUT
    if has_output or wishes.output is not None:
        places[OUTPUT] = len(modules) - has_output
    found = {**names, **places}.get(stage)
    if found is not None:
        return found
    if stage == OUTPUT:
        raise NotFoundError(
            f"Network {network.name} ({network.short_id}) has no output module: give one in the "
            "spec's 'output', or train it with 'modkernel compose'."
        )
    raise NotFoundError(
        f"Network {network.name} ({network.short_id}) has no stage '{stage}': use one of "
        f"{', '.join(places)}, or a module's name ({', '.join(names)})."
    )


def _replaced(
    registry: Registry,
    network: NetworkRecord,
    hidden: Sequence[ModuleRecord],
    first: int,
    name: str,
    wishes: Wishes,
) -> list[Step]:
    """New hidden modules, cut from what comes after the kept blocks."""
    assert wishes.hidden is not None
    old = hidden[first]
    below = hidden[first - 1] if first else None
    dataset, info = _data(registry, old, below, wishes)
    backbone = wishes.backbone or _hidden(old).backbone
    start_after = None
    if below is not None and backbone.name == _hidden(old).backbone.name:
        start_after = _hidden(below).blocks[-1]
    pairs = _pairs(registry, network, old, wishes)
    check_hidden(wishes.hidden, info, on_pairs=pairs is not None)
    takes = info.preprocessing.shape if below is None else below.spec.interface.gives
    plans = plan_hidden(backbone, wishes.hidden, takes, start_after)
    known = pairs and datasets.check_pairs(registry, dataset, pairs, wishes.hidden)
    data, seed = facts(info, known), old.spec.seed if wishes.seed is None else wishes.seed

    def spec_of(place: int) -> Callable[[Below], ModuleSpec]:
        def spec_on(under: Below) -> ModuleSpec:
            return plans[place].spec(*stands_on(under, info), data, seed)

        return spec_on

    return [
        Step(f"{name}.hidden-{first + place + 1}", dataset, pairs, None, spec_of(place))
        for place in range(len(plans))
    ]


def _hidden(record: ModuleRecord) -> HiddenModuleSpec:
    """The spec of what is known to be a hidden module."""
    assert isinstance(record.spec, HiddenModuleSpec)
    return record.spec


def _again(
    registry: Registry, network: NetworkRecord, record: ModuleRecord, name: str, wishes: Wishes
) -> Step:
    """A hidden module as it was, on what is below it now and on its data as it is now."""
    dataset, info = _data(registry, record, record, wishes)
    hidden = _hidden(record).hidden
    pairs = _pairs(registry, network, record, wishes)
    check_hidden([hidden], info, on_pairs=pairs is not None)
    known = pairs and datasets.check_pairs(registry, dataset, pairs, [hidden])

    def spec_on(under: Below) -> ModuleSpec:
        upstream, preprocessing = stands_on(under, info)
        changed: dict[str, Any] = {
            "interface": record.spec.interface.changed(upstream=upstream),
            "preprocessing": preprocessing,
            "dataset": facts(info, known),
        }
        if wishes.seed is not None:
            changed["seed"] = wishes.seed
        return record.spec.changed(**changed)

    return Step(name, dataset, pairs, None, spec_on)


def _output(
    registry: Registry,
    top: ModuleRecord,
    fitting: ModuleRecord | None,
    old: ModuleRecord | None,
    name: str,
    wishes: Wishes,
) -> Step:
    """The output module, on whichever hidden module is the last one now.

    Args:
        registry: knows the data.
        top: the last hidden module as it was.
        fitting: a module whose chain must take the data, if there is one.
        old: the output module as it was, if there was one.
        name: of the network.
        wishes: what changes.
    """
    dataset, info = _data(registry, old or top, fitting, wishes)
    wanted = wishes.output
    if wanted is None:
        assert old is not None
        assert isinstance(old.spec, OutputModuleSpec)
        wanted = old.spec.output
    if wishes.labels is not None:
        check_whole(wanted)
        given = datasets.check_labels(registry, dataset, wishes.labels)
    else:
        given = None
        if wishes.output is None and old and old.spec.dataset.labels_fingerprint is not None:
            raise SpecError(
                f"Module {old.short_id} ({old.name}) was trained on a file of labels, and it is "
                "not known where that is: give it in --labels, or an 'output' in --spec to train "
                "on the data set's own labels."
            )
        check_output(wanted, info)
    kernel: KernelSpec | None = None
    if old is not None and wishes.hidden is None:
        kernel = old.spec.interface.kernel
    seed = wishes.seed if wishes.seed is not None else (old or top).spec.seed

    def spec_on(under: Below) -> ModuleSpec:
        assert under is not None
        return output_spec(wanted, under[1], under[0], info, seed, kernel, given)

    return Step(f"{name}.{OUTPUT}", dataset, None, wishes.labels, spec_on)


def _data(
    registry: Registry, old: ModuleRecord, fitting: ModuleRecord | None, wishes: Wishes
) -> tuple[DatasetSpec, DatasetInfo]:
    """The data that was asked for, or that a module was trained on, as it is now.

    Args:
        registry: knows the data.
        old: the module that is replaced.
        fitting: a module whose chain must take the data, if there is one.
        wishes: may name a data set.
    """
    dataset = wishes.dataset or datasets.recall(registry, old)
    info = datasets.describe(registry, dataset)
    if fitting is not None:
        datasets.check_fits(info, fitting)
    return dataset, info


def _pairs(
    registry: Registry, network: NetworkRecord, old: ModuleRecord, wishes: Wishes
) -> str | None:
    """The file of pairs to train on; a module's spec says that there was one, not where it is."""
    if wishes.pairs is not None or old.spec.dataset.pairs_fingerprint is None:
        return wishes.pairs
    path = (network.spec or {}).get("pairs") or datasets.recall_pairs(registry, old)
    if path is None:
        raise SpecError(
            f"Module {old.short_id} ({old.name}) was trained on a file of pairs, and it is not "
            "known where that is: give it in 'pairs'."
        )
    return str(path)
