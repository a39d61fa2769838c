"""The flow that makes a network of a stored hidden module and a new output module."""

from __future__ import annotations

import time

from prefect import flow

from modkernel.errors import InterfaceError
from modkernel.flows.plans import datasets
from modkernel.flows.results import ModuleResult, NetworkResult
from modkernel.flows.runtime.events import emit
from modkernel.flows.runtime.mlflow_runs import is_recorded, network_run
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.record import finish_network
from modkernel.flows.tasks.train import train_stored_module
from modkernel.plan import check_output, check_whole, output_spec
from modkernel.spec import DatasetSpec, Name, OutputSpec

OUTPUT = OutputSpec()


@flow(name="compose-network", flow_run_name="{name}", persist_result=False)
def compose_network(
    name: Name,
    hidden: str,
    dataset: DatasetSpec | None = None,
    output: OutputSpec = OUTPUT,
    seed: int = 0,
    labels: str | None = None,
) -> NetworkResult:
    """Make a network of a stored hidden module, with all that it stands on, and train its output.

    The reference is resolved once: a later promotion does not change the network.

    Args:
        name: of the network.
        hidden: id, name, NAME@ALIAS or NAME/VERSION of a stored hidden module.
        dataset: what the output module tells apart; the hidden module's data if left out.
        output: how the output module is trained, and on how many labels.
        seed: of the label draws and the order of the data.
        labels: CSV file of labels (id, class) that the output module is trained on, and no
            others; see 'modkernel labels suggest'.

    Raises:
        SpecError: a file of labels and a budget of labels.
        DataError, ClassError: the file of labels is wrong.
        InterfaceError: the module does not take the data, or is no hidden module.
        ModkernelError: the reference or the data are wrong; later, what ended the training.
    """
    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    registry.promotions.sync()
    top = registry.modules.resolve(hidden)
    if top.kind != "hidden":
        raise InterfaceError(
            f"'{hidden}' is an output module: name the hidden module "
            f"{top.spec.interface.upstream[:12]} under it."
        )
    dataset, info = datasets.for_chain(registry, top, dataset)
    if labels is None:
        check_output(output, info)
    else:
        check_whole(output)
    given = None if labels is None else datasets.check_labels(registry, dataset, labels)
    chain = registry.modules.chain(top)
    module = output_spec(output, top.spec, top.id, info, seed, labels=given)
    own = f"{name}.output"
    emit({"event": "plan", "modules": [own]})
    results = [ModuleResult.of(record, registry.modules.report(record), True) for record in chain]
    ready = registry.modules.find_ready(module.digest())
    needed = ready is None or not is_recorded(registry, name, [*chain, ready])
    with network_run(registry, name, f"compose {module.digest()}", needed) as run_id:
        trained = train_stored_module.submit(own, module, dataset, None, run_id, labels=labels)
        return finish_network(registry, name, [*results, trained.result()], run_id, began)
