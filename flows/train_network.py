"""The flow that trains a network module by module."""

from __future__ import annotations

import time

from modkernel.flows.plans.network import plan
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import NetworkResult
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.train_plan import train_network_of
from modkernel.spec import NetworkSpec


@form_flow("train-network", flow_run_name=named("{spec.name}"))
def train_network(spec: NetworkSpec) -> NetworkResult:
    """Train a network module by module and store every module; what is stored already is reused.

    A flow that was killed is resumed when the same spec is run again.

    Args:
        spec: the network.

    Raises:
        ModkernelError: before anything is trained, where the spec or the data cannot be; later,
            what ended the training of a module.
    """
    began = time.perf_counter()
    fork_server().start()
    registry = open_registry()
    return train_network_of(registry, spec.name, plan(registry, spec), spec, began)
