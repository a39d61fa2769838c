"""What a network's flow will do, resolved before anything is trained."""

from __future__ import annotations

from modkernel.errors import SpecError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.adapting import adapted, below_first, sources_of
from modkernel.flows.plans.checks import check_devices
from modkernel.flows.plans.steps import Plan, hidden_step, output_step
from modkernel.plan import plan_network
from modkernel.registry import Registry
from modkernel.spec import NetworkSpec


def plan(registry: Registry, spec: NetworkSpec) -> Plan:
    """Resolve a network, and check that all of it can be trained.

    Raises:
        SpecError, DataError, PairError, ObjectiveError, InterfaceError, NotFoundError: something
            cannot be.
        SettingsError: a module is to be trained on more devices than there are.
    """
    check_devices(registry.settings)
    if spec.in_one_pass and registry.settings.devices_per_module > 1:
        raise SpecError(
            "Modules that are trained together take one device: set devices_per_module (--devices) "
            "to 1, or 'train: in turn'."
        )
    dataset, seed = spec.dataset, spec.seed
    info = datasets.describe(registry, dataset)
    sources = sources_of(registry, spec.hidden)
    hidden = adapted(plan_network(spec, info), sources)
    known = datasets.check_pairs(
        registry, dataset, info, spec.pairs, [module.hidden for module in hidden]
    )
    steps = [
        hidden_step(f"{spec.name}.hidden-{k}", module, known, seed, dataset, spec.pairs)
        for k, module in enumerate(hidden, start=1)
    ]
    if spec.output is not None:
        aside = datasets.check_unlabelled(registry, dataset, info, spec.output)
        name = f"{spec.name}.output"
        steps.append(output_step(name, spec.output, info, seed, dataset, unlabelled=aside))
    below = below_first(info, sources[0])
    return Plan(below, tuple(steps), in_one_pass=len(hidden) if spec.in_one_pass else 0)
