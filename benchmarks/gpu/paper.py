"""The paper's setting in a given time: one hidden module and an output module on one data set.

    python -m benchmarks.gpu.paper --images cifar10-jpeg --cache cache --seconds 360 --json out.json

ResNet-18 as one hidden module, then an output module on all labels and on one label a class. Two
epochs tell how many fit into the seconds; then the module is trained from its beginning for that
many, since a schedule has to know its end; `--epochs` says how many instead. `--end-to-end` trains
the same network by backpropagation of the cross-entropy. `--load-only` decodes the images into the
cache. `python -m benchmarks.gpu.variants` runs several of these side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modkernel.control import Control
from modkernel.data import DataPlaces, Dataset, load_dataset, place_dataset
from modkernel.modules.stored import StoredModule, write_module
from modkernel.pairs.source import PairSource
from modkernel.plan import facts, output_spec, plan_network
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)
from modkernel.system.files import replace_file
from modkernel.system.memory import peak_memory
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training import TrainReport, train_end_to_end, train_hidden, train_output
from modkernel.training.inputs import class_pairs, labelled_data

CALIBRATION_EPOCHS = 2
"""The first one warms up; the last one is the measure."""
SETTING = (
    "width", "batch", "learning_rate", "weight_decay", "schedule", "objective", "temperature",
    "projection", "crop", "seed", "mode", "views", "end_to_end",
)  # fmt: skip
SAFETY = 0.93
"""Share of the time that the epochs are planned for: a warm card clocks lower."""


def arguments() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="image_folder")
    parser.add_argument("--images", help="folder of an image_folder")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--load-only", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=360, help="for all, loading included")
    parser.add_argument("--reserve", type=float, default=30, help="of these, for the output module")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.4)
    parser.add_argument("--objective", default="anchor_contrastive")
    parser.add_argument("--crop", type=int, default=4)
    parser.add_argument("--no-flip", action="store_true")
    parser.add_argument("--temperature", type=float, help="of the objective; its own if left out")
    parser.add_argument("--projection", type=int, help="units of a head that only training has")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--schedule", default="one_cycle")
    parser.add_argument("--epochs", type=int, help="in place of as many as fit")
    parser.add_argument("--views", action="store_true", help="two views an image, and all labels")
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-epochs", type=int, default=400)
    parser.add_argument("--mode", choices=("eager", "graph"), default="graph", help="of the steps")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def network(given: argparse.Namespace, epochs: int) -> NetworkSpec:
    """The network that is trained, with so many epochs."""
    recipe = Recipe(
        epochs=epochs,
        batch_size=given.batch,
        learning_rate=given.learning_rate,
        weight_decay=given.weight_decay,
        schedule=given.schedule,
        crop_padding=0 if given.views else given.crop,
        flip=not given.no_flip,
    )
    return NetworkSpec(
        name="paper",
        dataset=DatasetSpec(name=given.dataset, path=given.images),
        backbone=BackboneSpec(name="resnet18", width=given.width),
        hidden=(
            HiddenSpec(
                objective=ObjectiveSpec(name=given.objective, temperature=given.temperature),
                projection=given.projection,
                recipe=recipe,
            ),
        ),
        output=OutputSpec(labels_per_class=1, draws=given.draws),
        seed=given.seed,
    )


class Findings:
    """What is known so far: printed, and written whenever something is added."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.began, self.known = path, time.perf_counter(), dict[str, Any]()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.began

    def add(self, **more: Any) -> None:
        """Add figures."""
        self.known |= more
        for name, value in more.items():
            print(f"{self.seconds:6.1f} s  {name}: {value}", flush=True)
        self.write()

    def write(self) -> None:
        """Write them all."""
        if self.path is not None:
            replace_file(self.path, json.dumps(self.known, indent=1).encode())


def hidden(
    given: argparse.Namespace,
    epochs: int,
    data: Dataset,
    arithmetic: Arithmetic,
    folder: Path,
    control: Control,
) -> tuple[StoredModule, TrainReport]:
    """Train the hidden module for so many epochs, and store it in a folder."""
    info = data.info()
    (plan,) = plan_network(network(given, epochs), info)
    spec = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), given.seed)
    train, validation = class_pairs(data)
    if given.views:
        train, validation = (
            replace(part, pairs=PairSource.from_views(len(part.examples), labels))
            for part, labels in (
                (train, data.train.labels),
                (validation, data.validation_part().labels),
            )
        )
    weights, report = train_hidden(
        spec,
        train,
        validation,
        arithmetic=arithmetic,
        control=control,
    )
    return write_module(folder, spec, weights), report


def output(
    given: argparse.Namespace, below: StoredModule, data: Dataset, arithmetic: Arithmetic
) -> TrainReport:
    """Train output modules on the hidden one, on all labels and on one a class."""
    wanted = network(given, 1).output
    assert wanted is not None
    _, report = train_output(
        output_spec(wanted, below.spec, below.id, data.info(), given.seed),
        *labelled_data(data)[:2],
        [below],
        arithmetic=arithmetic,
    )
    return report


def run(given: argparse.Namespace, findings: Findings, folder: Path) -> None:
    """All of it."""
    arithmetic = replace(choose_arithmetic(given.device), graphs=given.mode == "graph")
    spec = network(given, 1).dataset
    data = load_dataset(spec, DataPlaces(root=given.cache, cache=given.cache, download=False))
    data = place_dataset(data, arithmetic.device)
    findings.add(
        data=Path(given.images).name if given.images else given.dataset,
        fingerprint=data.fingerprint,
        examples=[len(data.train), len(data.validation), len(data.test)],
        device=str(arithmetic.device),
        precision=arithmetic.name,
        setting={name: getattr(given, name) for name in SETTING},
        load_seconds=findings.seconds,
    )
    epochs = given.epochs
    if epochs is None:
        _, tried = hidden(
            given, CALIBRATION_EPOCHS, data, arithmetic, folder / "calibration", Control()
        )
        epoch = tried.history[-1].seconds
        left = given.seconds - given.reserve - findings.seconds
        epochs = max(1, min(given.most_epochs, math.floor(SAFETY * left / epoch)))
        findings.add(calibrated_epoch_seconds=epoch)
    findings.add(epochs=epochs)

    history: list[dict[str, Any]] = []
    findings.known["history"] = history

    def follow(event: Mapping[str, Any]) -> None:
        history.append({k: event[k] for k in ("epoch", "objective", "validation", "seconds")})
        if event["epoch"] % max(1, epochs // 20) == 0:
            print(
                f"{findings.seconds:6.1f} s  epoch {event['epoch']} of {epochs}: objective "
                f"{event['objective']:.4f}, validation {event['validation']:.4f}, "
                f"{event['seconds']:.2f} s",
                flush=True,
            )
            findings.write()

    if given.end_to_end:
        whole = train_end_to_end(
            network(given, epochs), data, arithmetic=arithmetic, control=Control(progress=follow)
        )
        assert whole.evaluation is not None
        findings.add(
            hidden_seconds=whole.seconds,
            best_epoch=whole.best_epoch,
            images_per_second=epochs * len(data.train) / whole.seconds,
            accuracy_all_labels=whole.evaluation.accuracy,
            **peak_memory(),
            seconds=findings.seconds,
        )
        return
    stored, report = hidden(
        given, epochs, data, arithmetic, folder / "hidden", Control(progress=follow)
    )
    findings.add(
        hidden_seconds=report.seconds,
        best_epoch=report.best_epoch,
        parameters=report.parameters,
        images_per_second=epochs * len(data.train) / report.seconds,
        hidden_memory=peak_memory(),
    )
    began = time.perf_counter()
    found = output(given, stored, data, arithmetic).evaluation
    assert found is not None
    findings.add(
        output_seconds=time.perf_counter() - began,
        accuracy_all_labels=found.accuracy_all_labels,
        labels=found.labels,
        draws=found.draws,
        accuracy_mean=found.accuracy_mean,
        accuracy_min=found.accuracy_min,
        accuracy_max=found.accuracy_max,
        **peak_memory(),
        seconds=findings.seconds,
    )


def main() -> None:
    """Train within the time, or only decode the images."""
    given = arguments()
    findings = Findings(given.json)
    if given.load_only:
        places = DataPlaces(root=given.cache, cache=given.cache, download=False)
        data = load_dataset(network(given, 1).dataset, places)
        findings.add(classes=list(data.classes), fingerprint=data.fingerprint)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(given, findings, Path(folder))


if __name__ == "__main__":
    main()
