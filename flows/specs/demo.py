"""The spec of the demo: handwritten digits from ten labels."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from modkernel.flows.specs.read import parse_spec
from modkernel.spec import NetworkSpec


def demo_spec() -> NetworkSpec:
    """The network of examples/digits.yaml, which the package carries as demo.yaml."""
    text = (files("modkernel.flows.specs") / "demo.yaml").read_text(encoding="utf-8")
    return parse_spec(text, name="demo.yaml", folder=Path.cwd())
