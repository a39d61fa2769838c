"""Tags of versions in MLflow: what a person types into its search box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modkernel.registry.records import ModuleRecord, NetworkRecord, Uses
from modkernel.registry.tracking.fields import RECIPE_TAG
from modkernel.registry.tracking.runs import network_of
from modkernel.spec import AnyHiddenSpec, ModuleSpec, OutputModuleSpec

LIMIT_CHARACTERS = 2000
"""Of a tag's value; of longer ones the last names are left out."""
CLOSED_FORM = "closed_form_accuracy"
"""Metric of a hidden module: of a ridge output module on it, on validation examples."""


def module_tags(record: ModuleRecord, chain: Sequence[ModuleRecord], uses: Uses) -> dict[str, str]:
    """What a module's version is found by.

    Args:
        record: The module.
        chain: The modules it stands on, first to last, without itself.
        uses: What uses it.
    """
    spec = record.spec
    tags = {
        RECIPE_TAG: record.recipe_digest,
        "kind": record.kind,
        "network": network_of(record.name),
        "dataset": spec.dataset.name,
        "classes": _listed(spec.dataset.classes),
        "backbone": _distinct((*chain, record), "backbone"),
        "kernel": spec.interface.kernel.name,
        "labels": labels_of(spec),
        "upstream": _upstream(record, chain),
        "used_by": f"{uses.n_networks} network{'s' * (uses.n_networks != 1)}",
    }
    if isinstance(spec, OutputModuleSpec):
        tags["method"] = spec.output.method
    else:
        tags["blocks"] = _listed(spec.blocks)
    if spec.kind == "hidden":
        tags["objective"] = spec.hidden.objective.name
        tags["starts_from"] = spec.source or ""
        if spec.together is not None:
            tags["together"] = spec.together.group[:12]
    if spec.kind == "imported":
        tags["licence"] = spec.origin.licence
    if uses.upper is not None:
        tags["copy_of"] = f"{uses.upper.name}/{uses.upper.version}"
    accuracy = record.metrics.get("accuracy", record.metrics.get(CLOSED_FORM))
    if accuracy is not None:
        tags["accuracy"] = f"{accuracy:.4f}"
    return _given(tags)


def _upstream(record: ModuleRecord, chain: Sequence[ModuleRecord]) -> str:
    known = {one.id: version_of(one) for one in chain}
    return _listed(known.get(one, "data") for one in record.spec.interface.stands_on)


def network_tags(network: NetworkRecord, modules: Sequence[ModuleRecord]) -> dict[str, str]:
    """What a network's version is found by.

    Args:
        network: The network.
        modules: Its modules, first to last.
    """
    tags = {"kind": "network", "network": network.name, **facts_of(modules)}
    found = network.evaluation
    if found is not None:
        tags |= {
            "accuracy": f"{found.accuracy:.4f}",
            "balanced_accuracy": f"{found.balanced_accuracy:.4f}",
            "worst_class": found.worst_class.name,
        }
    return tags


def facts_of(modules: Sequence[ModuleRecord]) -> dict[str, str]:
    """What networks are told apart by: data, modules, how they were trained.

    Args:
        modules: Of one network, first to last.
    """
    top = modules[-1].spec
    facts = {
        "dataset": top.dataset.name,
        "classes": _listed(top.classes or top.dataset.classes),
        "backbone": _distinct(modules, "backbone"),
        "blocks": _listed(block for module in modules for block in _blocks(module.spec)),
        "kernel": _distinct(modules, "kernel"),
        "objective": _distinct(modules, "objective"),
        "modules": _listed(map(version_of, modules)),
    }
    if isinstance(top, OutputModuleSpec):
        facts |= {"method": top.output.method, "labels": labels_of(top)}
    return _given(facts)


def version_of(record: ModuleRecord) -> str:
    """A module's version as people write it: NAME/VERSION."""
    return f"{record.name}/{record.version}"


def labels_of(spec: ModuleSpec) -> str:
    """On which labels a module was trained; empty where that is not known."""
    if isinstance(spec, OutputModuleSpec):
        count, listed = spec.output.labels_per_class, spec.dataset.labels_fingerprint is not None
        labels = "all" if count is None else f"{count} per class"
        if listed:
            own = spec.dataset.unlabelled_fingerprint is not None
            labels = f"{'all and ' * own}a file of labels"
        return f"{labels}{', spread' * spec.output.spread_labels}"
    if spec.kind == "imported":
        return ""
    if spec.kind == "stitch":
        return labels_of(spec.upper)  # Its own map is fitted without any.
    if spec.dataset.pairs_fingerprint is not None:
        return "a file of pairs"
    if spec.kind == "hidden" and spec.hidden.start_from is not None:
        return "all" if spec.dataset.saw_labels else ""  # What it starts from may have seen some.
    return "all" if spec.dataset.saw_labels else "none"


def objective_of(spec: AnyHiddenSpec) -> str:
    """What a module without classes was trained for, in a word."""
    return spec.hidden.objective.name if spec.kind == "hidden" else spec.kind


def _given(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if value}


def _blocks(spec: ModuleSpec) -> tuple[str, ...]:
    return () if isinstance(spec, OutputModuleSpec) else spec.blocks


def _distinct(modules: Sequence[ModuleRecord], what: str) -> str:
    """What the hidden modules have of something, each once, in their order."""
    found = []
    for module in modules:
        spec = module.spec
        if isinstance(spec, OutputModuleSpec):
            continue
        names = {
            "backbone": spec.backbone.name,
            "kernel": spec.interface.kernel.name,
            "objective": objective_of(spec),
        }
        found.append(names[what])
    return _listed(dict.fromkeys(found))


def _listed(names: Iterable[str]) -> str:
    """Names with commas between; those that are too many are left out at the end."""
    text = ", ".join(names)
    if len(text) <= LIMIT_CHARACTERS:
        return text
    return text[:LIMIT_CHARACTERS].rpartition(", ")[0] + ", …"
