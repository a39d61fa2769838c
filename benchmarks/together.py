"""Seconds that choosing modules to join takes, among 1,000 stored ones with cached features.

    python -m benchmarks.together

The modules are rows in the registry's database, and their features, of 32 dimensions, are in the
feature cache as measuring leaves them: 9,000 training and 1,000 validation examples of ten
classes, 1.3 GB. Every module sees some of what tells the classes apart. Timed is
`registry.advice.together`; `--modules 15 --features 128` is a shelf of wider ones.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.registry_scale import fill
from modkernel.data import DatasetInfo
from modkernel.features.cache import FeatureKey
from modkernel.registry import Catalogue, Registry, Settings
from modkernel.registry.backends import feature_cache
from modkernel.registry.sql.tables import ModuleRow
from modkernel.reuse.task import Task
from tests.modkernel.helpers.stored_examples import PREPROCESSING

CLASSES = tuple(f"class {number}" for number in range(10))
FINGERPRINT = "b" * 64
SEEN = 64
"""Directions that tell classes apart, of which a module sees about one in ten."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=int, default=1000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--examples", type=int, default=900, help="of a class, for training")
    parser.add_argument("--most", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    counts = {"train": given.examples * len(CLASSES), "validation": 100 * len(CLASSES)}
    with TemporaryDirectory(prefix="modkernel-benchmark-") as folder:
        settings = Settings(home=Path(folder, "home"), feature_cache_bytes=2**34)
        with Registry.open(settings) as registry:
            fill_features(registry, Path(folder), given.modules, given.features, counts)
            info = DatasetInfo.model_validate(
                {
                    "name": "made",
                    "classes": CLASSES,
                    "fingerprint": FINGERPRINT,
                    "preprocessing": PREPROCESSING,
                    "train_counts": (given.examples,) * len(CLASSES),
                    "n_train": counts["train"],
                    "n_validation": counts["validation"],
                    "n_test": 0,
                    "labelled": True,
                }
            )
            for _ in range(given.rounds):
                began, worked = time.perf_counter(), time.process_time()
                found = registry.advice.together(Task.of_classes(CLASSES), info, given.most)
                took, worked = time.perf_counter() - began, time.process_time() - worked
                gains = ", ".join(f"{100 * step.balanced_accuracy:.1f} %" for step in found.steps)
                print(
                    f"{len(found.steps)} of {found.candidates} modules in {took:.1f} s "
                    f"({worked:.1f} s of CPU), on {found.examples} of {found.of_examples} "
                    f"examples: {gains}"
                )


def fill_features(
    registry: Registry, folder: Path, modules: int, features: int, counts: dict[str, int]
) -> None:
    """Rows of so many hidden modules, and the features of each."""
    # Of three rows that are written, two are hidden modules.
    found = Catalogue.open(registry.settings)
    fill(found, folder, modules * 3 // 2 + 2)
    found.database.close()
    hidden = registry.modules.find(kind="hidden")
    with registry.backends.database.writing() as session:
        for record in hidden[modules:]:
            session.get_one(ModuleRow, record.id).state = "LOST"
    draw = torch.Generator().manual_seed(0)
    labels = {split: torch.arange(count) % len(CLASSES) for split, count in counts.items()}
    centres = torch.randn(len(CLASSES), SEEN, generator=draw)
    examples = {
        split: torch.relu(centres[of] + 1.5 * torch.randn(len(of), SEEN, generator=draw))
        for split, of in labels.items()
    }
    cache = feature_cache(registry.settings)
    for record in hidden[:modules]:
        sees = torch.randn(SEEN, features, generator=draw)
        sees[torch.rand(SEEN, generator=draw) > 0.1] = 0
        for split, values in examples.items():
            phi = torch.relu(values @ sees)
            phi /= phi.norm(dim=1, keepdim=True).clamp_min(1e-12)
            cache.find_or_make(
                FeatureKey(record.id, FINGERPRINT, split, "measured", "float32"),
                len(phi),
                partial(iter, [phi]),
                {"labels": labels[split]},
            )


if __name__ == "__main__":
    main()
