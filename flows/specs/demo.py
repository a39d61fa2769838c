"""The demo: a network trained from ten labels, and a second one composed of its modules."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from modkernel.flows.compose_network import compose_network
from modkernel.flows.results import NetworkResult
from modkernel.flows.specs.read import parse_spec
from modkernel.flows.train_network import train_network
from modkernel.spec import NetworkSpec, OutputSpec


def demo_spec() -> NetworkSpec:
    """The network of examples/digits.yaml, which the package carries as demo.yaml."""
    text = (files("modkernel.flows.specs") / "demo.yaml").read_text(encoding="utf-8")
    return parse_spec(text, name="demo.yaml", folder=Path.cwd())


def run_demo() -> tuple[NetworkResult, NetworkResult]:
    """Train digits, then put another output module on the stored hidden modules."""
    spec = demo_spec()
    first = train_network(spec)
    top = [module for module in first.modules if module.kind == "hidden"][-1]
    output = OutputSpec(method="ridge", labels_per_class=1, draws=20)
    return first, compose_network(name=f"{spec.name}-composed", hidden=top.id, output=output)
