"""Train a network in a process of its own: `python -m tests.flows.helpers.run_flow SPEC RESULT`."""

from __future__ import annotations

import sys
from pathlib import Path

from modkernel.flows.train_network import train_network
from modkernel.spec import NetworkSpec

if __name__ == "__main__":
    spec, result = map(Path, sys.argv[1:])
    done = train_network(NetworkSpec.model_validate_json(spec.read_bytes()))
    result.write_text(done.model_dump_json())
