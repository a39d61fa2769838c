"""Do one job: load its data, train or measure its module, leave the result folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from modkernel.control import Control, Progress, Stop
from modkernel.data import (
    TRAINING_PART,
    DataPlaces,
    Dataset,
    load_dataset,
    place_dataset,
    read_labels,
    read_pairs,
)
from modkernel.errors import DataError, StoppedError
from modkernel.features.cache import FeatureCache
from modkernel.features.measure import measure
from modkernel.jobs.job import Job
from modkernel.modules.stored import StoredModule, read_module, write_module
from modkernel.pairs.source import PairSource
from modkernel.reuse.ground_truth import GROUND_TRUTH_FILE
from modkernel.reuse.moments_file import MOMENTS_FILE, write_moments
from modkernel.spec import DatasetSpec, ModuleSpec, Recipe
from modkernel.system.memory import peak_memory
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training import TrainReport, train_end_to_end, train_hidden, train_output
from modkernel.training.ground_truth import measure_ground_truth
from modkernel.training.hidden import PairData
from modkernel.training.output import GivenLabels, LabelledData

REPORT = "report.json"


def run_job(job: Job, progress: Progress, stop: Stop) -> None:
    """Do what the job describes; its result folder appears as a whole when that is done.

    What was trained leaves `report.json` and, for a module, `weights.safetensors` and `spec.json`.
    What was measured, and a hidden module that was trained on labelled data of not too many
    classes and features, leaves `moments.safetensors`. A ground truth leaves `ground_truth.json`.

    Args:
        job: on a device that this process holds.
        progress: called with a mapping an epoch, and with one for each note to the user.
        stop: asked before every step.

    Raises:
        ModkernelError: bad data or specs, numbers that are not finite, or `StoppedError`.
    """
    work = Path(job.work)
    control = Control(checkpoints=work / "checkpoint", progress=progress, stop=stop)
    places = DataPlaces(root=Path(job.data_root), cache=Path(job.cache), download=False)
    upstream = [
        read_module(Path(files.folder), files.weights_sha256, files.spec_sha256)
        for files in job.upstream
    ]
    arithmetic = choose_arithmetic(job.device, _recipe(job, upstream).precision)
    data = load_dataset(job.dataset, places, resident_limit=job.resident_limit)
    _check_data(job, data)
    data = place_dataset(data, arithmetic.device, job.resident_limit)
    part = job.result.with_name(f".result.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    if job.kind == "measure":
        part.mkdir()
        _measure(job, upstream, data, arithmetic, stop, part)
    elif job.ground_truth is not None:
        part.mkdir()
        cache = _cache(job)
        found = measure_ground_truth(
            job.ground_truth, upstream, data, arithmetic=arithmetic, control=control, cache=cache
        )
        (part / GROUND_TRUTH_FILE).write_text(found.model_dump_json(indent=1) + "\n")
    elif job.network is not None:
        part.mkdir()
        report = train_end_to_end(job.network, data, arithmetic=arithmetic, control=control)
        _write_report(part, report)
    else:
        assert job.module is not None
        train = _hidden if job.kind == "hidden" else _output
        weights, report = train(job, job.module, data, upstream, arithmetic, control)
        stored = write_module(part, job.module, weights)
        _write_report(part, report)
        if job.kind == "hidden" and data.train.labels is not None:
            try:
                _measure(job, [*upstream, stored], data, arithmetic, stop, part)
            except StoppedError:
                raise
            except Exception as error:  # It is trained all the same, and must not be lost.
                (part / MOMENTS_FILE).unlink(missing_ok=True)
                why = str(error) or type(error).__name__
                progress({"event": "note", "text": f"The module is not measured: {why}"})
    os.replace(part, job.result)


def _check_data(job: Job, data: Dataset) -> None:
    planned = job.fingerprint if job.module is None else job.module.dataset.fingerprint
    if data.fingerprint != planned:
        raise DataError(
            f"Data set '{data.name}' has changed since this training was planned: "
            "run the command again, so that it is planned anew."
        )


def _recipe(job: Job, upstream: list[StoredModule]) -> Recipe:
    if job.network is not None:
        return job.network.hidden[-1].recipe
    spec = job.module or upstream[-1].spec
    trained = spec.hidden or spec.output
    assert trained is not None
    return trained.recipe


def _cache(job: Job) -> FeatureCache | None:
    return None if job.features is None else FeatureCache(Path(job.features), job.feature_limit)


def _hidden(
    job: Job,
    module: ModuleSpec,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport]:
    train, validation = _pairs(job, module, data)
    return train_hidden(
        module,
        train,
        validation,
        upstream,
        arithmetic=arithmetic,
        control=control,
        cache=_cache(job),
    )


def _pairs(job: Job, module: ModuleSpec, data: Dataset) -> tuple[PairData, PairData]:
    """Training and validation pairs: from the labels, whose identities end here, or a pair file."""
    _check_given("pairs", job.pairs, module.dataset.pairs_fingerprint)
    if job.pairs is not None:
        spec, part = job.dataset, data.training_part()
        table = read_pairs(job.pairs, part.ids, spec.path, data.test.ids)
        _check_same("pairs", job.pairs, table.fingerprint, module.dataset.pairs_fingerprint)
        source = PairSource.from_pairs(len(part), table.i, table.j, table.same)
        first, second = source.split(spec.validation_fraction, spec.split_seed)
        return (
            PairData(part.examples, first, TRAINING_PART),
            PairData(part.examples, second, TRAINING_PART),
        )
    if data.train.labels is None or data.validation.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels: give a file of pairs in 'pairs'."
        )
    return (
        PairData(data.train.examples, PairSource.from_classes(data.train.labels), "train"),
        PairData(
            data.validation.examples, PairSource.from_classes(data.validation.labels), "validation"
        ),
    )


def _output(
    job: Job,
    module: ModuleSpec,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport]:
    _check_given("labels", job.labels, module.dataset.labels_fingerprint)
    given = None if job.labels is None else _given(job.labels, job.dataset, module, data)
    part, split = data.train, "train"
    if given is not None:
        part, split = data.training_part(), TRAINING_PART
    test = data.test.labels
    return train_output(
        module,
        LabelledData(part.examples, part.labels, split),
        None if test is None else LabelledData(data.test.examples, test, "test"),
        upstream,
        given=given,
        arithmetic=arithmetic,
        control=control,
        cache=_cache(job),
    )


def _given(path: str, spec: DatasetSpec, module: ModuleSpec, data: Dataset) -> GivenLabels:
    found = read_labels(path, data.training_part().ids, data.classes, spec.path, data.test.ids)
    _check_same("labels", path, found.fingerprint, module.dataset.labels_fingerprint)
    return GivenLabels(found.rows, found.labels)


def _check_given(what: str, path: str | None, planned: str | None) -> None:
    if path is None and planned is not None:
        raise DataError(
            f"The module is to be trained on a file of {what}, and none is given: give the file "
            f"in '{what}'."
        )


def _check_same(what: str, path: str, found: str, planned: str | None) -> None:
    if found != planned:
        raise DataError(
            f"The {what} in {path} have changed since this training was planned: run the command "
            "again, so that it is planned anew."
        )


def _measure(
    job: Job,
    modules: list[StoredModule],
    data: Dataset,
    arithmetic: Arithmetic,
    stop: Stop,
    folder: Path,
) -> None:
    found = measure(modules, data, arithmetic, cache=_cache(job), stop=stop)
    write_moments(folder / MOMENTS_FILE, found)


def _write_report(folder: Path, report: TrainReport) -> None:
    memory = peak_memory()
    peak = memory["peak_gpu_memory_bytes" if torch.cuda.is_initialized() else "peak_memory_bytes"]
    report = report.model_copy(update={"peak_memory_bytes": peak})
    (folder / REPORT).write_text(report.model_dump_json(indent=1) + "\n")
