"""Trained modules to store: small ones, with made-up reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from modkernel.modules.stored import StoredModule
from modkernel.registry import ModuleRecord, Registry
from modkernel.reuse.moments import ClassMoments, ModuleMoments, accumulate
from modkernel.reuse.moments_file import write_moments
from modkernel.spec import KernelSpec
from modkernel.training.report import ClassRecall, EpochLine, OutputEvaluation, TrainReport
from tests.modkernel.helpers.stored_examples import FACTS, PREPROCESSING, store_hidden, store_output

EVALUATION = OutputEvaluation(
    accuracy=0.75,
    accuracy_all_labels=0.9,
    labels=30,
    draws=2,
    accuracy_mean=0.7,
    accuracy_min=0.65,
    accuracy_max=0.75,
    balanced_accuracy=0.75,
    balanced_accuracy_all_labels=0.9,
    balanced_accuracy_mean=0.7,
    balanced_accuracy_min=0.6,
    balanced_accuracy_max=0.8,
    worst_class=ClassRecall(name="b", accuracy=0.5, right=2, examples=4),
    worst_class_all_labels=ClassRecall(name="b", accuracy=0.75, right=3, examples=4),
    worst_class_mean=ClassRecall(name="b", accuracy=0.5, right=2, examples=4),
    untested=(),
    confusion=((3, 1, 0), (0, 4, 0), (1, 1, 2)),
    per_class=(0.75, 1.0, 0.5),
)


def report_of(stored: StoredModule) -> TrainReport:
    line = {"validation": 0.4, "learning_rate": 0.1, "seconds": 0.5}
    return TrainReport(
        recipe_digest=stored.spec_sha256,
        history=(
            EpochLine(epoch=1, objective=0.25, **line),
            EpochLine(epoch=2, objective=0.5, **line),
        ),
        best_epoch=2,
        seconds=1.5,
        device="cpu",
        precision="float32",
        threads=2,
        examples=100,
        parameters=1234,
        evaluation=EVALUATION if stored.spec.kind == "output" else None,
    )


@dataclass(frozen=True)
class Examples:
    """A chain of two hidden modules and an output module, written where training leaves them."""

    folder: Path

    def first(self, seed: int = 0) -> StoredModule:
        where = self.folder / f"first-{seed}"
        return store_hidden(where, ("stem",), (1, 8, 8), PREPROCESSING.id, seed)[0]

    def second(self, first: StoredModule, seed: int = 0) -> StoredModule:
        where = self.folder / f"second-{seed}-{first.id[:6]}"
        return store_hidden(where, ("layer1.0",), (2, 8, 8), first.id, seed)[0]

    def output(self, under: StoredModule, kernel: str = "relu_avgpool") -> StoredModule:
        where = self.folder / f"output-{under.id[:6]}"
        return store_output(where, under.spec.interface.gives, under.id, KernelSpec(name=kernel))[0]

    def chain(self) -> tuple[StoredModule, StoredModule, StoredModule]:
        first = self.first()
        second = self.second(first)
        return first, second, self.output(second)


def store_chain(
    registry: Registry, chain: tuple[StoredModule, ...], network: str = "net"
) -> tuple[ModuleRecord, ...]:
    """Store modules under '<network>.hidden-<k>' and '<network>.output'."""
    records = []
    for position, stored in enumerate(chain, start=1):
        part = "output" if stored.spec.kind == "output" else f"hidden-{position}"
        records.append(store_one(registry, stored, f"{network}.{part}"))
    return tuple(records)


def store_one(registry: Registry, stored: StoredModule, name: str = "net.hidden-1") -> ModuleRecord:
    return registry.modules.store(stored.folder, name=name, report=report_of(stored))


def class_moments(
    seed: int,
    fingerprint: str = FACTS.fingerprint,
    classes: tuple[str, ...] = FACTS.classes,
    apart: float = 1.0,
    examples: int = 60,
    dimension: int = 4,
) -> ClassMoments:
    """Of unit rows, each class around a direction of its own while there are enough.

    Args:
        seed: of the noise.
        fingerprint: of the data.
        classes: their names, at most four.
        apart: length of a class's direction, against noise of 0.3.
        examples: in all.
        dimension: of a row.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % len(classes)
    directions = torch.eye(4)[labels, :dimension]
    phi = 0.3 * torch.randn(examples, dimension, generator=generator) + apart * directions
    return accumulate([(phi / phi.norm(dim=1, keepdim=True), labels)], classes, fingerprint)


def write_example_moments(
    path: Path,
    module_id: str,
    seed: int = 0,
    fingerprint: str = FACTS.fingerprint,
    dimension: int = 4,
) -> ModuleMoments:
    """Moments of a module in a file, as training leaves them."""
    train, validation = (
        class_moments(seed + part, fingerprint, dimension=dimension) for part in (0, 1000)
    )
    made = ModuleMoments(module_id, train, validation, seconds=0.25)
    write_moments(path, made)
    return made
