"""Networks trained in this process and stored as flows leave them, for tests of what comes after.

A flow of three modules takes ten times as long: a Prefect run, a child and its pages a module.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

from modkernel import train_network
from modkernel.flows.tasks.seen import remember
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import NetworkSpec


def store_modules(registry: Registry, spec: NetworkSpec) -> tuple[ModuleRecord, ...]:
    """Train a network's modules and store them, without the network; flows reuse them."""
    with TemporaryDirectory() as folder:
        trained = train_network(spec, folder, registry.settings.places, device="cpu")
        remember(registry, spec.dataset, trained.modules[0].spec.dataset)
        return tuple(
            registry.modules.store(
                stored.folder,
                name=f"{spec.name}.{stored.folder.name}",
                report=report,
                dataset=spec.dataset,
                pairs=spec.pairs,
            )
            for stored, report in zip(trained.modules, trained.reports, strict=True)
        )


def store_network(registry: Registry, spec: NetworkSpec) -> tuple[ModuleRecord, ...]:
    """Train a network and store it: its modules."""
    records = store_modules(registry, spec)
    ids = [record.id for record in records]
    evaluation = registry.modules.report(records[-1]).evaluation
    registry.networks.add(spec.name, ids, evaluation, None, spec)
    return records
