"""Which modules of a stored network are kept and how those from a stage on are trained again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from modkernel.data import DatasetInfo
from modkernel.data.label_budget import check_output, check_whole
from modkernel.errors import NotFoundError, SpecError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.adapting import adapted, below_first, sources_of
from modkernel.flows.plans.checks import check_is_hidden
from modkernel.flows.plans.steps import Below, Plan, Step, hidden_step, output_step
from modkernel.plan import check_hidden, plan_hidden
from modkernel.registry import ModuleRecord, NetworkRecord, Registry
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    ModuleSpec,
    NetworkSpec,
    OutputModuleSpec,
    OutputSpec,
    Spec,
    view_objective,
)

OUTPUT = "output"
"""The stage of the output module."""
OF_HIDDEN = ("hidden", "backbone", "pairs")
"""The changes that concern hidden modules alone."""


class Changes(Spec):
    """What is to be other than it was; what is left out stays as it was."""

    hidden: tuple[HiddenSpec, ...] | None = None
    output: OutputSpec | None = None
    backbone: BackboneSpec | None = None
    dataset: DatasetSpec | None = None
    pairs: str | None = Field(None, description=NetworkSpec.model_fields["pairs"].description)
    labels: str | None = None
    seed: int | None = None


def plan_retraining(
    registry: Registry, network: NetworkRecord, stage: str, name: str, changes: Changes
) -> Plan:
    """Resolve what is kept and what is trained, and check that all of it can be.

    Args:
        registry: has the network.
        network: whose modules from a stage on are replaced.
        stage: 1, 2, …, 'output', or a module's name.
        name: of the new network, after which the new modules are named.
        changes: what changes.

    Raises:
        NotFoundError: the network has no such stage.
        SpecError: hidden modules for the output stage, another stage of a network of modules side
            by side, labels for no output module, data that cannot be found again, or stored
            modules that name code which is not trusted.
        DataError, PairError, LabelBudgetError, InterfaceError, CutError, ObjectiveError,
        UnknownNameError: a module that cannot be trained.
    """
    modules = registry.networks.members(network)
    hidden = [module for module in modules if module.kind != "output"]
    first = _position(network, modules, stage, changes)
    at_output = first == len(hidden)
    unused = [name for name in OF_HIDDEN if getattr(changes, name) is not None]
    if at_output and unused:
        raise SpecError(
            "Nothing but the output module is trained again from stage 'output': leave "
            f"{' and '.join(map(repr, unused))} out, or name the first hidden module to replace."
        )
    if changes.backbone is not None and changes.hidden is None:
        raise SpecError(
            "A 'backbone' replaces no module by itself: give 'hidden', the modules that are cut "
            "from it."
        )
    joins = any(module.spec.interface.joins for module in modules)
    if joins and not at_output:
        raise SpecError(
            f"Network {network.name} ({network.short_id}) has modules side by side, of which its "
            "output module alone is trained again (stage 'output'): train a hidden module again in "
            "a network of its own, then compose anew with 'modkernel compose'."
        )
    kept = tuple(modules[:first])
    # Those that are replaced by others of another backbone are not built.
    built = hidden if changes.hidden is None else hidden[: first + (changes.backbone is None)]
    for module in built if joins else built[-1:]:
        datasets.check_chain_trusted(registry, module)
    if kept:
        below = _below(kept, modules[-1])
    else:
        info = _data(registry, hidden[0], None, changes)[1]
        below = below_first(info, _first_source(registry, hidden[0], changes))
    if changes.hidden is not None:
        steps = _replaced(registry, network, hidden, first, below, name, changes)
    else:
        steps = [
            _again(registry, network, record, f"{name}.hidden-{k}", changes)
            for k, record in enumerate(hidden[first:], start=first + 1)
        ]
    old_output = modules[-1] if modules[-1].kind == OUTPUT else None
    if old_output is not None or changes.output is not None:
        # Where nothing is kept, the new modules take the data as it is, whatever the old ones took.
        top = hidden[-1] if kept or changes.hidden is None else None
        steps.append(_output(registry, hidden[-1], top, old_output, name, changes))
    elif changes.labels is not None:
        raise SpecError(
            f"Network {network.name} ({network.short_id}) has no output module that a file of "
            "labels could train: leave the labels out, or give an 'output' in --spec."
        )
    for dataset in dict.fromkeys(step.dataset for step in steps):
        datasets.describe(registry, dataset)  # Once, for whatever was noticed about it.
    return Plan(below, tuple(steps), kept)


def _first_source(registry: Registry, old: ModuleRecord, changes: Changes) -> ModuleRecord | None:
    """What the first module starts from, by the changes or as it did, if from anything."""
    if changes.hidden is not None:
        return sources_of(registry, changes.hidden)[0]
    return sources_of(registry, [old.spec.hidden])[0] if old.spec.kind == "hidden" else None


def _below(kept: Sequence[ModuleRecord], old: ModuleRecord) -> Below:
    """What the first module that is trained stands on: the last one kept, or several side by side.

    Args:
        kept: the modules that stay.
        old: the network's last module.
    """
    if old.kind != OUTPUT or not old.spec.interface.joins:
        return Below.of_record(kept[-1])
    known = {module.id: module for module in kept}
    upstream = old.spec.interface.upstream
    return Below.of_records([known[one.id] for one in upstream], [one.weight for one in upstream])


def _position(
    network: NetworkRecord, modules: Sequence[ModuleRecord], stage: str, changes: Changes
) -> int:
    """How many modules come before a stage."""
    names = {module.name: place for place, module in enumerate(modules)}
    places = {str(place + 1): place for place, m in enumerate(modules) if m.kind != "output"}
    has_output = modules[-1].kind == OUTPUT
    if has_output or changes.output is not None:
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
    below: Below,
    name: str,
    changes: Changes,
) -> list[Step]:
    """New hidden modules, cut from what comes after the kept blocks."""
    assert changes.hidden is not None
    old = hidden[first]
    fitting = hidden[first - 1] if first else None
    dataset, info = _data(registry, old, fitting, changes)
    own = check_is_hidden(old).backbone
    backbone = changes.backbone or own
    start_after = below.last_block if backbone.name == own.name else None
    pairs = _pairs(registry, network, old, changes)
    check_hidden(changes.hidden, info, pairs)
    plans = plan_hidden(backbone, changes.hidden, below.gives, start_after)
    plans = adapted(plans, sources_of(registry, changes.hidden))
    data = datasets.check_pairs(registry, dataset, info, pairs, [plan.hidden for plan in plans])
    seed = old.spec.seed if changes.seed is None else changes.seed
    return [
        hidden_step(f"{name}.hidden-{k}", plan, data, seed, dataset, pairs)
        for k, plan in enumerate(plans, start=first + 1)
    ]


def _again(
    registry: Registry, network: NetworkRecord, record: ModuleRecord, name: str, changes: Changes
) -> Step:
    """A hidden module as it was, on what is below it now and on its data as it is now."""
    dataset, info = _data(registry, record, record, changes)
    if record.spec.kind == "stitch":
        raise SpecError(
            f"Module {record.short_id} ({record.name}) is a stitch, which is not trained again: "
            "make one on the new module with 'modkernel stitch', or retrain from a stage above it."
        )
    if record.spec.kind != "hidden":
        raise SpecError(
            f"Module {record.short_id} ({record.name}) was not trained here, so it cannot be "
            "trained again as it was: give 'hidden' in --spec, or begin after it."
        )
    hidden = record.spec.hidden
    sources_of(registry, [hidden])  # Refuses one that starts from what is deleted.
    pairs = _pairs(registry, network, record, changes)
    check_hidden([hidden], info, pairs)
    known = datasets.check_pairs(registry, dataset, info, pairs, [hidden])

    def spec_on(below: Below) -> ModuleSpec:
        changed: dict[str, Any] = {
            "interface": record.spec.interface.changed(upstream=below.upstream),
            "preprocessing": below.preprocessing,
            "dataset": known,
            "hidden": hidden.changed(
                objective=view_objective(hidden.objective, known.pairs is not None)
            ),
            "together": None,  # It is trained by itself now.
        }
        if changes.seed is not None:
            changed["seed"] = changes.seed
        return record.spec.changed(**changed)

    return Step(name, spec_on, dataset, pairs)


def _output(
    registry: Registry,
    top: ModuleRecord,
    fitting: ModuleRecord | None,
    old: ModuleRecord | None,
    name: str,
    changes: Changes,
) -> Step:
    """The output module, on whichever hidden module is the last one now.

    Args:
        registry: knows the data.
        top: the last hidden module as it was.
        fitting: a module whose chain must take the data, if there is one.
        old: the output module as it was, if there was one.
        name: of the network.
        changes: what changes.
    """
    dataset, info = _data(registry, old or top, fitting, changes)
    wanted = changes.output
    if wanted is None:
        assert old is not None
        assert isinstance(old.spec, OutputModuleSpec)
        wanted = old.spec.output
        if changes.labels is not None or wanted.labels_per_class is None:
            # A file of labels takes the place of those that were drawn.
            wanted = wanted.changed(labels_per_class=None, draws=1)
    if changes.labels is not None:
        check_whole(wanted)
        given = datasets.check_labels(registry, dataset, changes.labels)
    else:
        given = None
        if changes.output is None and old and old.spec.dataset.labels_fingerprint is not None:
            raise SpecError(
                f"Module {old.short_id} ({old.name}) was trained on a file of labels, and it is "
                "not known where that is: give it in --labels, or an 'output' in --spec to train "
                "on the data set's own labels."
            )
        check_output(wanted, info)
    kernel: KernelSpec | None = None
    weights: Literal["aligned"] | None = None
    if old is not None and changes.hidden is None:
        kernel = old.spec.interface.kernel
        weights = old.spec.weights if isinstance(old.spec, OutputModuleSpec) else None
    seed = changes.seed if changes.seed is not None else (old or top).spec.seed
    return output_step(
        f"{name}.{OUTPUT}",
        wanted,
        info,
        seed,
        dataset,
        kernel=kernel,
        labels=changes.labels,
        given=given,
        weights=weights,
        unlabelled=datasets.check_unlabelled(registry, dataset, info, wanted, given),
    )


def _data(
    registry: Registry, old: ModuleRecord, fitting: ModuleRecord | None, changes: Changes
) -> tuple[DatasetSpec, DatasetInfo]:
    """The data that was asked for, or that a module was trained on, as it is now.

    Args:
        registry: knows the data.
        old: the module that is replaced.
        fitting: a module whose chain must take the data, if there is one.
        changes: may name a data set.
    """
    dataset = changes.dataset or datasets.recall(registry, old)
    info = datasets.info_of(registry, dataset)
    if fitting is not None:
        datasets.check_fits(info, fitting)
    return dataset, info


def _pairs(
    registry: Registry, network: NetworkRecord, old: ModuleRecord, changes: Changes
) -> str | None:
    """What to train on; a module's spec says that there was a file of pairs, not where it is."""
    if changes.pairs is not None:
        return changes.pairs
    if old.spec.dataset.pairs_fingerprint is None:
        return old.spec.dataset.pairs
    path = (network.spec or {}).get("pairs") or registry.modules.pairs_file(old)
    if path is None:
        raise SpecError(
            f"Module {old.short_id} ({old.name}) was trained on a file of pairs, and it is not "
            "known where that is: give it in 'pairs'."
        )
    return str(path)
