"""Do one job: load its data, train its module, leave the result folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from modkernel.data import DataPlaces, Dataset, load_dataset, place_dataset, read_pairs
from modkernel.errors import DataError
from modkernel.job import Job
from modkernel.memory import peak_memory
from modkernel.pairs import PairSource
from modkernel.spec import DatasetSpec, ModuleSpec, Recipe
from modkernel.stored import StoredModule, read_module, write_module
from modkernel.training import TrainReport, train_end_to_end, train_hidden, train_output
from modkernel.training.hidden import PairData
from modkernel.training.loop import Control
from modkernel.training.output import LabelledData
from modkernel.training.precision import Arithmetic, choose_arithmetic
from modkernel.training.report import Progress, Stop

REPORT = "report.json"


def run_job(job: Job, progress: Progress, stop: Stop) -> None:
    """Train what the job describes; its result folder appears as a whole when that is done.

    The result holds `report.json` and, for a module, `weights.safetensors` and `spec.json`.

    Args:
        job: on a device that this process holds.
        progress: called with a mapping an epoch.
        stop: asked before every step.

    Raises:
        ModkernelError: bad data or specs, numbers that are not finite, or `StoppedError`.
    """
    work = Path(job.work)
    control = Control(checkpoints=work / "checkpoint", progress=progress, stop=stop)
    places = DataPlaces(root=Path(job.data_root), cache=Path(job.cache), download=False)
    arithmetic = choose_arithmetic(job.device, _recipe(job).precision)
    data = load_dataset(job.dataset, places, resident_limit=job.resident_limit)
    _check_data(job, data)
    data = place_dataset(data, arithmetic.device, job.resident_limit)
    weights: dict[str, Tensor] | None = None
    if job.kind == "end_to_end":
        assert job.network is not None
        report = train_end_to_end(job.network, data, arithmetic=arithmetic, control=control)
    else:
        assert job.module is not None
        upstream = [
            read_module(Path(files.folder), files.weights_sha256, files.spec_sha256)
            for files in job.upstream
        ]
        train = _hidden if job.kind == "hidden" else _output
        weights, report = train(job, job.module, data, upstream, arithmetic, control)
    _write_result(job, weights, report)


def _check_data(job: Job, data: Dataset) -> None:
    planned = job.fingerprint if job.module is None else job.module.dataset.fingerprint
    if data.fingerprint != planned:
        raise DataError(
            f"Data set '{data.name}' has changed since this training was planned: "
            "run the command again, so that it is planned anew."
        )


def _recipe(job: Job) -> Recipe:
    if job.network is not None:
        return job.network.hidden[-1].recipe
    assert job.module is not None
    trained = job.module.hidden or job.module.output
    assert trained is not None
    return trained.recipe


def _hidden(
    job: Job,
    module: ModuleSpec,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport]:
    train, validation = _pairs(job.dataset, job.pairs, data)
    return train_hidden(
        module,
        train,
        validation,
        upstream,
        arithmetic=arithmetic,
        control=control,
        folder=Path(job.work, "features"),
    )


def _pairs(spec: DatasetSpec, pairs: str | None, data: Dataset) -> tuple[PairData, PairData]:
    """Training and validation pairs: from the labels, whose identities end here, or a pair file."""
    if pairs is not None:
        part = data.training_part()
        table = read_pairs(pairs, part.ids, spec.path, data.test.ids)
        source = PairSource.from_pairs(len(part), table.i, table.j, table.same)
        first, second = source.split(spec.validation_fraction, spec.split_seed)
        return PairData(part.images, first), PairData(part.images, second)
    if data.train.labels is None or data.validation.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels: give a file of pairs in 'pairs'."
        )
    return (
        PairData(data.train.images, PairSource.from_classes(data.train.labels)),
        PairData(data.validation.images, PairSource.from_classes(data.validation.labels)),
    )


def _output(
    job: Job,
    module: ModuleSpec,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport]:
    if data.train.labels is None or data.test.labels is None:
        raise DataError(f"Data set '{data.name}' has no class labels to train an output module on.")
    return train_output(
        module,
        LabelledData(data.train.images, data.train.labels),
        LabelledData(data.test.images, data.test.labels),
        upstream,
        arithmetic=arithmetic,
        control=control,
        folder=Path(job.work, "features"),
    )


def _write_result(job: Job, weights: dict[str, Tensor] | None, report: TrainReport) -> None:
    part = job.result.with_name(f".result.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    if weights is None:
        part.mkdir()
    else:
        assert job.module is not None
        write_module(part, job.module, weights)
    memory = peak_memory()
    peak = memory["peak_gpu_memory_bytes" if torch.cuda.is_initialized() else "peak_memory_bytes"]
    report = report.model_copy(update={"peak_memory_bytes": peak})
    (part / REPORT).write_text(report.model_dump_json(indent=1) + "\n")
    os.replace(part, job.result)
