"""`demo`: handwritten digits from ten labels, and a second network composed of the same modules."""

from __future__ import annotations

import time

from modkernel.flows.cli._output import Json, out, print_json
from modkernel.flows.cli._run_flow import Verbose, flow_running, print_network


def demo(json: Json = False, verbose: Verbose = False) -> None:
    """Train handwritten digits module by module from 10 labels, then compose a second network.

    --json: one object. Of the trained network: accuracy, accuracy_all_labels, accuracy_mean,
    accuracy_min, accuracy_max, the same of balanced_accuracy, worst_class and untested (as of
    'train'), draws, labels. Of both: trained_modules, reused_modules, seconds;
    and networks, a list of two objects as 'train --json' prints them.
    """
    started = time.monotonic()
    with flow_running(verbose):
        from modkernel.flows.demo import run_demo

        networks = run_demo()
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
        f"{seconds:.1f} s in all. Next: 'modkernel modules list', 'modkernel up', or "
        f"'modkernel compose {networks[0].name}.hidden-1'.",
        soft_wrap=True,
    )
