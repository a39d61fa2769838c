"""`demo`: handwritten digits from ten labels, and a second network composed of the same modules."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from modkernel.flows.cli._output import Json, out, print_json
from modkernel.flows.cli._run_flow import Verbose, flow_running, print_network

if TYPE_CHECKING:
    from modkernel.flows.runtime.results import NetworkResult


def demo(json: Json = False, verbose: Verbose = False) -> None:
    """Train handwritten digits module by module from 10 labels, then compose a second network.

    --json: one object. Of the trained network: accuracy, accuracy_all_labels, accuracy_mean,
    accuracy_min, accuracy_max, the same of balanced_accuracy, worst_class and untested (as of
    'train'), draws, labels. Of both: trained_modules, reused_modules, seconds;
    and networks, a list of two objects as 'train --json' prints them.
    """
    started = time.monotonic()
    with flow_running(verbose):
        networks = _run_demo()
    seconds = time.monotonic() - started
    trained = sum(network.trained_modules for network in networks)
    reused = sum(network.reused_modules for network in networks)
    if json:
        evaluation = networks[0].evaluation
        assert evaluation is not None, "the demo's network has an output module"
        print_json(
            {
                **evaluation.model_dump(mode="json", exclude={"confusion", "per_class"}),
                "trained_modules": trained,
                "reused_modules": reused,
                "seconds": round(seconds, 3),
                "networks": [network.model_dump(mode="json") for network in networks],
            }
        )
        return
    for network in networks:
        print_network(network)
    if not trained:
        out.print("Nothing was retrained: every module was stored already.")
    out.print(
        f"{seconds:.1f} s in all. Next: {activation()}'modkernel modules list', 'modkernel up', or "
        f"'modkernel compose {networks[0].name}.hidden-1'.",
        soft_wrap=True,
    )


def activation() -> str:
    """What to do first where a shell does not know `modkernel`, as after `make demo`."""
    script = Path(sys.executable).with_name("activate")
    if shutil.which("modkernel") is not None or not script.exists():
        return ""
    return f"'. {shlex.quote(str(script))}', then "


def _run_demo() -> tuple[NetworkResult, NetworkResult]:
    """Train digits, then put another output module on the stored hidden modules."""
    from modkernel.flows.compose_network import compose_network
    from modkernel.flows.specs.demo import demo_spec
    from modkernel.flows.train_network import train_network
    from modkernel.spec import OutputSpec

    spec = demo_spec()
    first = train_network(spec)
    top = [module for module in first.modules if module.kind != "output"][-1]
    output = OutputSpec(method="ridge", labels_per_class=1, draws=20)
    return first, compose_network(name=f"{spec.name}-composed", hidden=(top.id,), output=output)
