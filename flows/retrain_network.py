"""The flow that replaces a stored network's modules from one stage on."""

from __future__ import annotations

import time

from prefect import flow

from modkernel.flows.plans.retrain import RetrainPlan, Wishes, plan_again
from modkernel.flows.results import ModuleResult, NetworkResult
from modkernel.flows.runtime.events import emit
from modkernel.flows.runtime.mlflow_runs import is_recorded, network_run
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.record import finish_network
from modkernel.flows.tasks.train import train_stored_module
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, Name, OutputSpec

NOTHING = (
    "Every module of this is stored already, so nothing was trained: give --seed for another "
    "try, or --spec for other modules."
)


@flow(name="retrain-network", flow_run_name="{network}", persist_result=False)
def retrain_network(
    network: str,
    stage: str,
    hidden: tuple[HiddenSpec, ...] | None = None,
    output: OutputSpec | None = None,
    backbone: BackboneSpec | None = None,
    dataset: DatasetSpec | None = None,
    pairs: str | None = None,
    labels: str | None = None,
    seed: int | None = None,
    name: Name | None = None,
) -> NetworkResult:
    """Keep a stored network's modules before a stage, and train anew what stands on them.

    The modules from the stage on are trained as they were, on their data as it is now, but for
    what is given here. What is stored already is reused. The network that was there stays.

    Args:
        network: a network's name, id or first digits of its id.
        stage: the first module to train again: 1, 2, … or output, or the module's name.
        hidden: hidden modules that take the place of those from the stage on, as many as wanted;
            the last one must end at the backbone's last block.
        output: how the output module is trained.
        backbone: where the blocks of hidden are from; that of the network if left out. Of a
            backbone of the same name, those after the kept blocks are used.
        dataset: what to train on; the modules' own data sets if left out.
        pairs: file of pairs to train the hidden modules on.
        labels: CSV file of labels (id, class) to train the output module on, and no others.
        seed: of the weights, the label draws and the order of the data; as it was if left out.
        name: of the new network; the same if left out, which then means the new one.

    Raises:
        ModkernelError: before anything is trained, where it cannot be; later, what ended it.
    """
    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    old = registry.networks.resolve(network)
    wishes = Wishes(
        hidden=hidden,
        output=output,
        backbone=backbone,
        dataset=dataset,
        pairs=pairs,
        labels=labels,
        seed=seed,
    )
    name = name or old.name
    steps = plan_again(registry, old, stage, name, wishes)
    emit({"event": "plan", "modules": [step.name for step in steps.steps]})
    ready = _stored_already(registry, steps)
    results = [ModuleResult.of(kept, registry.modules.report(kept), True) for kept in steps.kept]
    missing = len(ready) < len(steps.steps)
    needed = missing or not is_recorded(registry, name, [*steps.kept, *ready])
    below = steps.below
    recipe = f"retrain {old.id} from {stage}: {wishes.canonical_json()}"
    with network_run(registry, name, recipe, needed) as run_id:
        for step in steps.steps:
            module = step.spec_on(below)
            result = train_stored_module.submit(
                step.name, module, step.dataset, step.pairs, run_id, labels=step.labels
            ).result()
            results.append(result)
            below = (result.id, module)
        if not missing:
            emit({"event": "note", "text": NOTHING})
        return finish_network(registry, name, results, run_id, began)


def _stored_already(registry: Registry, steps: RetrainPlan) -> list[ModuleRecord]:
    """The first modules to train that were trained before; those after them were not."""
    found: list[ModuleRecord] = []
    below = steps.below
    for step in steps.steps:
        record = registry.modules.find_ready(step.spec_on(below).digest())
        if record is None:
            break
        found.append(record)
        below = (record.id, record.spec)
    return found
