"""What a spec asks for, in one or two sentences for a person."""

from __future__ import annotations

from modkernel.flows.deployments.of_specs.kinds import AnySpec
from modkernel.flows.search.spec import SearchSpec
from modkernel.flows.specs.composition import CompositionSpec
from modkernel.flows.study.spec import StudySpec
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, NetworkSpec, OutputSpec


def summary(spec: AnySpec) -> str:
    """What a spec asks for."""
    match spec:
        case NetworkSpec():
            source = "" if spec.pairs is None else f", pairs of {spec.pairs}"
            told = (
                f"Trains the network {spec.name} on {_dataset(spec.dataset)}{source}: "
                f"{_backbone(spec.backbone)}, {_hidden(spec.hidden)}, {_output(spec.output)}"
            )
        case CompositionSpec():
            data = "its own data" if spec.dataset is None else _dataset(spec.dataset)
            several = len(spec.hidden) > 1
            told = (
                f"Composes the network {spec.name} of what {', '.join(spec.hidden)} "
                f"mean{'' if several else 's'} when a run begins{', side by side' * several}, "
                f"on {data}: {_output(spec.output, spec.labels)}"
            )
        case SearchSpec():
            counts = " × ".join(str(len(stage.candidates)) for stage in spec.stages)
            told = (
                f"Searches the modules of the network {spec.name} on {_dataset(spec.dataset)}: "
                f"{_backbone(spec.backbone)}, {counts} candidates, the best by {spec.score} kept, "
                f"{_output(spec.output)}"
            )
        case StudySpec():
            tasks = "the usual" if spec.tasks is None else str(len(spec.tasks))
            told = (
                f"Trains a module for each of {tasks} tasks on {_dataset(spec.dataset)} and "
                f"compares scores with the truth (study {spec.name}): {_backbone(spec.backbone)}, "
                f"{_hidden((spec.hidden,))}, {_output(spec.output)}"
            )
    return f"{told}; seed {spec.seed}."


def _dataset(spec: DatasetSpec) -> str:
    source = "" if spec.path is None else f" {spec.path}"
    chosen = spec.classes or spec.groups
    part = "" if chosen is None else f" ({len(chosen)} {'classes' if spec.classes else 'groups'})"
    return f"{spec.name}{source}{part}"


def _backbone(spec: BackboneSpec) -> str:
    width = "" if spec.width is None else f" of width {spec.width}"
    depth = f", {spec.depth} layers" if spec.name == "mlp" else ""
    return f"backbone {spec.name}{width}{depth}"


def _hidden(modules: tuple[HiddenSpec, ...]) -> str:
    epochs = [str(module.recipe.epochs) for module in modules]
    told = epochs[0] if len(set(epochs)) == 1 else " + ".join(epochs)
    count = len(modules)
    return f"{count} hidden module{'s' if count > 1 else ''} ({told} epochs)"


def _output(spec: OutputSpec | None, file: str | None = None) -> str:
    if spec is None:
        return "no output module"
    spread = ", spread over examples without one" * spec.spread_labels
    if file is not None:
        return f"output module by {spec.method} with the labels in {file}{spread}"
    count = spec.labels_per_class
    labels = "all labels" if count is None else f"{count} label{'s' if count > 1 else ''} a class"
    draws = f", {spec.draws} draws" if spec.draws > 1 else ""
    return f"output module by {spec.method} on {labels}{draws}{spread}"
