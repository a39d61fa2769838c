"""The demo: a network trained from ten labels, and a second one composed of its modules."""

from __future__ import annotations

from modkernel.flows.compose_network import compose_network
from modkernel.flows.results import NetworkResult
from modkernel.flows.specs.demo import demo_spec
from modkernel.flows.train_network import train_network
from modkernel.spec import OutputSpec


def run_demo() -> tuple[NetworkResult, NetworkResult]:
    """Train digits, then put another output module on the stored hidden modules."""
    spec = demo_spec()
    first = train_network(spec)
    top = [module for module in first.modules if module.kind == "hidden"][-1]
    output = OutputSpec(method="ridge", labels_per_class=1, draws=20)
    return first, compose_network(name=f"{spec.name}-composed", hidden=top.id, output=output)
