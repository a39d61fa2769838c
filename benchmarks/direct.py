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

from modkernel.data import DataPlaces, describe_dataset, load_dataset
from modkernel.features.cache import FeatureCache
from modkernel.features.measure import measure
from modkernel.modules.stored import StoredModule, write_module
from modkernel.pairs.source import PairSource
from modkernel.plan import facts, output_spec, plan_network
from modkernel.reuse.moments_file import MOMENTS_FILE, write_moments
from modkernel.spec import NetworkSpec
from modkernel.system.precision import choose_arithmetic
from modkernel.training import TrainReport, train_hidden, train_output
from modkernel.training.hidden import PairData
from modkernel.training.output import LabelledData

FEATURE_BYTES = 10 << 30


def train(
    spec: NetworkSpec, places: DataPlaces, folder: Path
) -> tuple[list[StoredModule], list[TrainReport]]:
    """Train every module of a network, and write each: the next one stands on it."""
    info = describe_dataset(spec.dataset, places)
    data = load_dataset(spec.dataset, places)
    assert data.train.labels is not None
    assert data.validation.labels is not None
    assert data.test.labels is not None
    train_pairs = PairData(data.train.examples, PairSource.from_classes(data.train.labels), "train")
    held_out = PairData(
        data.validation.examples, PairSource.from_classes(data.validation.labels), "validation"
    )
    cache = FeatureCache(folder / "features", FEATURE_BYTES)
    chain: list[StoredModule] = []
    reports: list[TrainReport] = []
    under = info.preprocessing.id
    for plan in plan_network(spec, info):
        module = plan.spec(under, info.preprocessing, facts(info), spec.seed)
        arithmetic = choose_arithmetic(precision=plan.hidden.recipe.precision)
        weights, report = train_hidden(
            module, train_pairs, held_out, chain, arithmetic=arithmetic, cache=cache
        )
        chain.append(write_module(folder / str(len(chain)), module, weights))
        moments = measure(chain, data, arithmetic, cache=cache)
        write_moments(chain[-1].folder / MOMENTS_FILE, moments)
        reports.append(report)
        under = chain[-1].id
    if spec.output is not None:
        module = output_spec(spec.output, chain[-1].spec, under, info, spec.seed)
        weights, report = train_output(
            module,
            LabelledData(data.train.examples, data.train.labels, "train"),
            LabelledData(data.test.examples, data.test.labels, "test"),
            chain,
            arithmetic=choose_arithmetic(precision=spec.output.recipe.precision),
            cache=cache,
        )
        chain.append(write_module(folder / str(len(chain)), module, weights))
        reports.append(report)
    return chain, reports


def main() -> None:
    """Train what standard input describes."""
    threads, root, cache = sys.argv[1:]
    spec = NetworkSpec.model_validate_json(sys.stdin.read())
    torch.set_num_threads(int(threads))
    places = DataPlaces(root=Path(root), cache=Path(cache))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        chain, reports = train(spec, places, Path(folder))
        seconds = time.perf_counter() - began
    epochs = [line.seconds for line in reports[0].history]
    print(json.dumps({"seconds": seconds, "id": chain[-1].id, "epochs": epochs}))


if __name__ == "__main__":
    main()
