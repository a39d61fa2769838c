"""The flow that trains a network module by module."""

from __future__ import annotations

import time

from prefect import flow

from modkernel.flows.plans.network import plan, stored_already
from modkernel.flows.results import ModuleResult, NetworkResult
from modkernel.flows.runtime.events import emit
from modkernel.flows.runtime.mlflow_runs import is_recorded, network_run
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.record import finish_network
from modkernel.flows.tasks.train import train_stored_module
from modkernel.spec import ModuleSpec, NetworkSpec


@flow(name="train-network", flow_run_name="{spec.name}", persist_result=False)
def train_network(spec: NetworkSpec) -> NetworkResult:
    """Train a network module by module and store every module; what is stored already is reused.

    A flow that was killed goes on where it was when the same spec is run again.

    Args:
        spec: the network.

    Raises:
        ModkernelError: before anything is trained, where the spec or the data cannot be; later,
            what ended the training of a module.
    """
    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    steps = plan(registry, spec)
    emit({"event": "plan", "modules": list(steps.names)})
    ready = stored_already(registry, steps)
    results: list[ModuleResult] = []
    below: list[tuple[str, ModuleSpec]] = []
    needed = len(ready) < len(steps.names) or not is_recorded(registry, spec.name, ready)
    with network_run(registry, spec.name, spec, needed) as run_id:
        for name in steps.names:
            module = steps.module(below)
            result = train_stored_module.submit(
                name, module, spec.dataset, spec.pairs, run_id
            ).result()
            results.append(result)
            below.append((result.id, module))
        return finish_network(registry, spec.name, results, run_id, began, spec)
