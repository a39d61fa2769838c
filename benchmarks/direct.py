"""Train a network by calling the core, in a plain process: what the flow is measured against.

    python -m benchmarks.direct THREADS ROOT CACHE < network.json

Nothing but `modkernel` is imported: no Prefect, no MLflow, no registry. There are no checkpoints
and no progress. Hidden modules are measured as the flow measures them. Prints one JSON object:
seconds, from reading the data to the last written module; id of the last module; seconds of the
epochs of the first.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from modkernel import DataPlaces, NetworkSpec, train_network


def main() -> None:
    """Train what standard input describes."""
    threads, root, cache = sys.argv[1:]
    spec = NetworkSpec.model_validate_json(sys.stdin.read())
    torch.set_num_threads(int(threads))
    places = DataPlaces(root=Path(root), cache=Path(cache))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trained = train_network(spec, folder, places)
        seconds = time.perf_counter() - began
    epochs = [line.seconds for line in trained.reports[0].history]
    print(json.dumps({"seconds": seconds, "id": trained.modules[-1].id, "epochs": epochs}))


if __name__ == "__main__":
    main()
