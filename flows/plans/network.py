"""What a network's flow will do, resolved before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modkernel.data import DatasetInfo
from modkernel.flows.plans import datasets
from modkernel.plan import HiddenPlan, facts, output_spec, plan_network, stands_on
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import DatasetFacts, ModuleSpec, NetworkSpec


@dataclass(frozen=True)
class NetworkPlan:
    """A network's modules in order. A module's spec is known once the one below has an id."""

    spec: NetworkSpec
    info: DatasetInfo
    facts: DatasetFacts
    hidden: tuple[HiddenPlan, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Registered names of the modules."""
        hidden = [f"{self.spec.name}.hidden-{k}" for k in range(1, len(self.hidden) + 1)]
        output = [] if self.spec.output is None else [f"{self.spec.name}.output"]
        return (*hidden, *output)

    def module(self, below: Sequence[tuple[str, ModuleSpec]]) -> ModuleSpec:
        """The spec of the next module.

        Args:
            below: ids and specs of the modules under it, first to last.
        """
        seed = self.spec.seed
        if len(below) < len(self.hidden):
            under_it = stands_on(below[-1] if below else None, self.info)
            return self.hidden[len(below)].spec(*under_it, self.facts, seed)
        assert self.spec.output is not None
        upstream, under = below[-1]
        return output_spec(self.spec.output, under, upstream, self.info, seed)


def plan(registry: Registry, spec: NetworkSpec) -> NetworkPlan:
    """Resolve a network, and see that all of it can be trained.

    Raises:
        SpecError, DataError, PairError, ObjectiveError, InterfaceError: something cannot be.
    """
    info = datasets.describe(registry, spec.dataset)
    hidden = plan_network(spec, info)
    pairs = spec.pairs and datasets.check_pairs(registry, spec.dataset, spec.pairs, spec.hidden)
    return NetworkPlan(spec, info, facts(info, pairs), hidden)


def stored_already(registry: Registry, plan: NetworkPlan) -> tuple[ModuleRecord, ...]:
    """The first modules of a plan that were trained before; those after them were not."""
    found: list[ModuleRecord] = []
    while len(found) < len(plan.names):
        module = plan.module([(record.id, record.spec) for record in found])
        record = registry.modules.find_ready(module.digest())
        if record is None:
            break
        found.append(record)
    return tuple(found)
