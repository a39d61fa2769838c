"""What the benchmarks of stored modules share: a home of their own, and a module of 45 MB."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.training_speed import describe
from modkernel.backbones import build_hidden
from modkernel.modules.stored import StoredModule, write_module
from modkernel.registry import Settings
from modkernel.spec import ModuleSpec
from modkernel.training.report import EpochLine, TrainReport

WIDTH = 64
"""Of ResNet-18: 11.2 million weights, 44.7 MB."""
EPOCHS = 10
OURS = ("MODKERNEL_", "PREFECT_")


@contextmanager
def temporary_home(**extra: str) -> Iterator[Settings]:
    """Settings, the environment's too, of an empty home that is gone afterwards.

    Both databases are SQLite files in it, whatever the user's own settings say.

    Args:
        extra: more of the environment, such as MODKERNEL_CPU_SLOTS.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    for name in before:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="modkernel-benchmark-") as home:
        os.environ.update(extra, MODKERNEL_HOME=home)
        settings = Settings()
        settings.ensure_home()
        try:
            yield settings
        finally:
            for name in (*extra, "MODKERNEL_HOME"):
                del os.environ[name]
            os.environ.update(before)


def write_resnet(folder: Path, seed: int) -> StoredModule:
    """ResNet-18 as one hidden module, initialised from a seed, where training would leave it."""
    spec = describe(WIDTH).changed(seed=seed)
    module = build_hidden(spec.backbone, spec.blocks, spec.interface.takes, seed)
    return write_module(folder, spec, module.state_dict())


def report_of(spec: ModuleSpec) -> TrainReport:
    """A report as of a training of ten epochs."""
    history = tuple(
        EpochLine(
            epoch=epoch,
            objective=epoch / EPOCHS,
            validation=epoch / EPOCHS,
            learning_rate=0.1,
            seconds=1.0,
        )
        for epoch in range(1, EPOCHS + 1)
    )
    return TrainReport(
        recipe_digest=spec.digest(),
        history=history,
        best_epoch=EPOCHS,
        seconds=float(EPOCHS),
        device="cpu",
        precision="float32",
        examples=45_000,
        parameters=11_170_000,
    )
