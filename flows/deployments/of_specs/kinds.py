"""What a spec file describes, which flow does that, and whether it can."""

from __future__ import annotations

from typing import Any

from prefect.flows import Flow

from modkernel.flows.compose_network import compose_network
from modkernel.flows.plans import network as network_plan
from modkernel.flows.plans.composition import plan_composition
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.search.plan import plan_search
from modkernel.flows.search.spec import SearchSpec
from modkernel.flows.search_modules import search_modules
from modkernel.flows.specs.composition import CompositionSpec
from modkernel.flows.study.plan import plan_study
from modkernel.flows.study.spec import StudySpec
from modkernel.flows.train_network import train_network
from modkernel.flows.transfer_study import transfer_study
from modkernel.spec import NetworkSpec

AnySpec = NetworkSpec | CompositionSpec | SearchSpec | StudySpec
FLOWS: dict[type[AnySpec], Flow[..., Any]] = {
    NetworkSpec: train_network,
    CompositionSpec: compose_network,
    SearchSpec: search_modules,
    StudySpec: transfer_study,
}
"""The flow that does what a kind of spec says."""
OF_SEARCHES = SearchSpec.model_fields.keys() - NetworkSpec.model_fields.keys()
OF_STUDIES = StudySpec.model_fields.keys() - NetworkSpec.model_fields.keys()


def kind_of(document: dict[Any, Any]) -> type[AnySpec]:
    """What a spec file describes, told by its fields.

    Args:
        document: what the file says.
    """
    hidden = document.get("hidden")
    if document.keys() & OF_SEARCHES:
        return SearchSpec
    if document.keys() & OF_STUDIES or isinstance(hidden, dict):
        return StudySpec
    of_names = isinstance(hidden, list) and hidden and isinstance(hidden[0], str)
    return CompositionSpec if isinstance(hidden, str) or of_names else NetworkSpec


def flow_parameters(spec: AnySpec) -> dict[str, Any]:
    """What the flow of a spec is called with, as JSON."""
    fields = spec.model_dump(mode="json")
    return fields if isinstance(spec, CompositionSpec) else {"spec": fields}


def check_can_be(spec: AnySpec) -> None:
    """Refuse what every run of a spec would be refused for.

    Raises:
        ModkernelError: something cannot be.
    """
    registry = open_registry()
    match spec:
        case NetworkSpec():
            network_plan.plan(registry, spec)
        case SearchSpec():
            plan_search(registry, spec)
        case StudySpec():
            plan_study(registry, spec)
        case CompositionSpec():
            wanted = (spec.dataset, spec.output, spec.labels, spec.weights)
            plan_composition(registry, spec.hidden, *wanted)
