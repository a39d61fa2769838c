"""The end of every flow that makes a network: record it, draw it, say what was done."""

from __future__ import annotations

import time
from collections.abc import Sequence

from modkernel.flows.display.artifacts import show_network
from modkernel.flows.runtime.results import ModuleResult, NetworkResult
from modkernel.registry import Registry
from modkernel.spec import NetworkSpec


def record_network(
    registry: Registry,
    name: str,
    modules: Sequence[ModuleResult],
    run_id: str | None,
    began: float,
    spec: NetworkSpec | None = None,
) -> NetworkResult:
    """Record a network in the registry and leave its summary.

    Args:
        registry: keeps it.
        name: of the network.
        modules: all of them, first to last.
        run_id: its MLflow run, if anything was trained.
        began: `time.perf_counter()` at the flow's start.
        spec: what it was trained from; none for a composition.
    """
    from modkernel.flows.display.figures import network_figure

    records = [registry.modules.resolve(module.id) for module in modules]
    reports = [registry.modules.report(record) for record in records]
    evaluation = reports[-1].evaluation
    figure = network_figure(
        [(record.name, report) for record, report in zip(records, reports, strict=True)],
        evaluation,
        records[-1].spec.classes or (),
    )
    network = registry.networks.add(
        name,
        [record.id for record in records],
        evaluation,
        run_id,
        spec,
        {"network.png": figure},
    )
    result = NetworkResult(
        id=network.id,
        name=network.name,
        modules=tuple(modules),
        evaluation=evaluation,
        trained_modules=sum(not module.reused for module in modules),
        reused_modules=sum(module.reused for module in modules),
        seconds=time.perf_counter() - began,
        run_id=network.run_id,
    )
    show_network(result, figure)
    return result
