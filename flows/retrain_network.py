"""The flow that replaces a stored network's modules from one stage on."""

from __future__ import annotations

import time

from modkernel.flows.plans.retrain import Changes, plan_retraining
from modkernel.flows.runtime.events import Note, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import NetworkResult
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.train_plan import train_network_of
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, Name, OutputSpec

NOTHING = (
    "Every module of this is stored already, so nothing was trained: give --seed for another "
    "try, or --spec for other modules."
)
"""Said after a call that found all that it would train."""


@form_flow("retrain-network", flow_run_name=named("{network}"))
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
    """Keep a stored network's modules before a stage, and train again what stands on them.

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
        pairs: what to train the hidden modules on in place of class labels: views, a file of pairs,
            or both.
        labels: CSV file of labels (id, class) to train the output module on; a data set's own count
            beside it only where some of its examples have none.
        seed: of the weights, the label draws and the order of the data; as it was if left out.
        name: of the new network; the same if left out, which then means the new one.

    Raises:
        ModkernelError: before anything is trained, where it cannot be; later, what ended it.
    """
    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    old = registry.networks.resolve(network)
    changes = Changes(
        hidden=hidden,
        output=output,
        backbone=backbone,
        dataset=dataset,
        pairs=pairs,
        labels=labels,
        seed=seed,
    )
    name = name or old.name
    plan = plan_retraining(registry, old, stage, name, changes)
    recipe = f"retrain {old.id} from {stage}: {changes.canonical_json()}"
    result = train_network_of(registry, name, plan, recipe, began)
    if result.trained_modules == 0:
        emit(Note(NOTHING))
    return result
