"""Do one job: load its data, train or measure its module, leave the result folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from modkernel.control import Control, Progress, Stop
from modkernel.data import Dataset, load_dataset, place_dataset
from modkernel.errors import DataError, StoppedError
from modkernel.features.cache import FeatureCache
from modkernel.features.measure import measure
from modkernel.jobs.job import (
    EndToEndJob,
    GroundTruthJob,
    HiddenJob,
    Job,
    MeasureJob,
    OutputJob,
    StitchJob,
    TogetherJob,
    UpstreamFiles,
)
from modkernel.lookup import trusting
from modkernel.modules.stored import StoredModule, read_module, write_module
from modkernel.reuse.ground_truth import GROUND_TRUTH_FILE
from modkernel.reuse.moments_file import MOMENTS_FILE, write_moments
from modkernel.spec import DatasetFacts, Recipe, pairs_from
from modkernel.system.files import written_whole
from modkernel.system.memory import peak_memory
from modkernel.system.precision import Arithmetic, choose_arithmetic
from modkernel.training import TrainReport, train_end_to_end, train_hidden, train_output
from modkernel.training.ground_truth import measure_ground_truth
from modkernel.training.inputs import (
    given_by_hand,
    given_labels,
    labelled_data,
    pair_data,
    taking_part,
    unlabelled_examples,
)
from modkernel.training.output import GivenLabels
from modkernel.training.pair_data import PairData
from modkernel.training.parallel.join import here
from modkernel.training.stitch import fit_stitch
from modkernel.training.stitch_guard import check_worth, judge_stitch
from modkernel.training.together import train_together, write_group

REPORT = "report.json"


def run_job(job: Job, progress: Progress, stop: Stop) -> None:
    """Do what the job describes; its result folder appears as a whole when that is done.

    What was trained leaves `report.json` and, for a module, `weights.safetensors` and `spec.json`.
    What was measured, and a hidden module that was trained on labelled data of not too many
    classes and features, leaves `moments.safetensors`. A ground truth leaves `ground_truth.json`.

    Where several processes have joined (`modkernel.jobs.helpers`), all of them do it, and the first
    one leaves the result.

    Args:
        job: on a device that this process holds.
        progress: called with a mapping an epoch, and with one for each note to the user.
        stop: asked before every step.

    Raises:
        ModkernelError: bad data or specs, numbers that are not finite, or `StoppedError`.
    """
    with trusting(job.trusted):
        _run(job, progress, stop)


def _run(job: Job, progress: Progress, stop: Stop) -> None:
    work = Path(job.work)
    control = Control(checkpoints=work / "checkpoint", progress=progress, stop=stop)
    upstream = _read_chain(job.upstream)
    arithmetic = choose_arithmetic(job.device, _recipe(job, upstream).precision)
    data = load_dataset(
        job.dataset,
        job.places,
        resident_limit=job.resident_limit,
        unlabelled=_takes_unlabelled(job),
    )
    _check_data(job, data)
    data = place_dataset(data, arithmetic.device, job.resident_limit)
    if isinstance(job, HiddenJob) and not here().first:
        _hidden(job, data, upstream, arithmetic, control)  # The first process has the same weights.
        return
    with written_whole(job.result, durable=True) as part:
        match job:
            case HiddenJob():
                weights, report = _hidden(job, data, upstream, arithmetic, control)
                stored = write_module(part, job.module, weights)
                _write_report(part, report)
                _measure_new(job, [*upstream, stored], data, arithmetic, control, part)
            case TogetherJob():
                part.mkdir()
                done = _together(job, data, upstream, arithmetic, control, part)
                for count, (stored, report) in enumerate(done, start=1):
                    _write_report(part / stored.folder.name, report)
                    modules = [*upstream, *(one for one, _ in done[:count])]
                    _measure_new(job, modules, data, arithmetic, control, part / stored.folder.name)
            case StitchJob():
                weights, report, upper = _stitch(job, data, upstream, arithmetic, control)
                stored = write_module(part, job.module, weights)
                figures = judge_stitch(
                    upstream, upper, stored, data, arithmetic, stop, job.left_out
                )
                if not job.force:
                    check_worth(figures)
                _write_report(part, report.changed(stitch=figures))
                _measure_new(job, [*upstream, stored], data, arithmetic, control, part)
            case OutputJob():
                weights, report = _output(job, data, upstream, arithmetic, control)
                write_module(part, job.module, weights)
                _write_report(part, report)
            case EndToEndJob():
                part.mkdir()
                report = train_end_to_end(job.network, data, arithmetic=arithmetic, control=control)
                _write_report(part, report)
            case MeasureJob():
                part.mkdir()
                _measure(job, upstream, data, arithmetic, stop, part)
            case GroundTruthJob():
                part.mkdir()
                cache = _cache(job)
                found = measure_ground_truth(
                    job.ground_truth,
                    upstream,
                    data,
                    arithmetic=arithmetic,
                    control=control,
                    cache=cache,
                    tested=_tested(job, data),
                )
                found = found.changed(seen=job.seen)
                (part / GROUND_TRUTH_FILE).write_text(found.model_dump_json(indent=1) + "\n")


def _read(files: UpstreamFiles) -> StoredModule:
    return read_module(Path(files.folder), files.weights_sha256, files.spec_sha256)


def _check_data(job: Job, data: Dataset) -> None:
    if data.fingerprint != job.fingerprint:
        raise DataError(
            f"Data set '{data.name}' has changed since this training was planned: "
            "run the command again, so that it is planned again."
        )


def _recipe(job: Job, upstream: list[StoredModule]) -> Recipe:
    """How what the job is about was trained, or is to be: its number format is used."""
    match job:
        case EndToEndJob():
            return job.network.hidden[-1].recipe
        case HiddenJob() | StitchJob() | OutputJob():
            return job.module.recipe
        case TogetherJob():
            return job.group.modules[0].recipe
        case MeasureJob() | GroundTruthJob():
            return upstream[-1].spec.recipe


def _cache(job: Job) -> FeatureCache | None:
    return None if job.features is None else FeatureCache(Path(job.features), job.feature_limit)


def _hidden(
    job: HiddenJob,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport]:
    train, validation = _pairs(job, data, job.module.dataset)
    start = None if job.start is None else _read(job.start)
    return train_hidden(
        job.module,
        train,
        validation,
        upstream,
        arithmetic=arithmetic,
        control=control,
        cache=_cache(job),
        start=start,
        ranks=here(),
    )


def _together(
    job: TogetherJob,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
    folder: Path,
) -> list[tuple[StoredModule, TrainReport]]:
    train, validation = _pairs(job, data, job.group.modules[0].dataset)
    trained = train_together(
        job.group,
        train,
        validation,
        upstream,
        arithmetic=arithmetic,
        control=control,
        cache=_cache(job),
    )
    return write_group(folder, job.group, trained)


def _takes_unlabelled(job: Job) -> bool:
    """Whether training examples without a label take part, where others have one."""
    if isinstance(job, HiddenJob | TogetherJob):
        return pairs_from(job.pairs).views
    return isinstance(job, OutputJob) and (
        job.module.output.spread_labels or job.labels is not None
    )


def _pairs(
    job: HiddenJob | TogetherJob, data: Dataset, planned: DatasetFacts
) -> tuple[PairData, PairData]:
    """Training and validation pairs: of labels, whose identities end here, of views, of a file."""
    sources = pairs_from(job.pairs)
    if sources.fact != planned.pairs:
        raise DataError(
            f"The module is to be trained on pairs of {planned.pairs or 'labels or a file'}, and "
            f"the job names {job.pairs or 'none'}: give 'pairs' as it was planned."
        )
    _check_given("pairs", sources.file, planned.pairs_fingerprint)
    train, validation, found = pair_data(data, job.dataset, job.pairs, job.places)
    if sources.file is not None:
        _check_same("pairs", sources.file, found.pairs_fingerprint, planned.pairs_fingerprint)
    _check_aside(data, found.unlabelled_fingerprint, planned)
    return train, validation


def _check_aside(data: Dataset, found: str | None, planned: DatasetFacts) -> None:
    if found != planned.unlabelled_fingerprint:
        raise DataError(
            f"The examples of '{data.name}' that have no label have changed since this training "
            "was planned: run the command again, so that it is planned again."
        )


def _stitch(
    job: StitchJob,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport, list[StoredModule]]:
    upper = _read_chain(job.upper)
    weights, report = fit_stitch(
        job.module, data.train.examples, upstream, upper, arithmetic=arithmetic, control=control
    )
    return weights, report, upper


def _read_chain(chain: Sequence[UpstreamFiles]) -> list[StoredModule]:
    return [
        read_module(Path(files.folder), files.weights_sha256, files.spec_sha256) for files in chain
    ]


def _output(
    job: OutputJob,
    data: Dataset,
    upstream: list[StoredModule],
    arithmetic: Arithmetic,
    control: Control,
) -> tuple[dict[str, Tensor], TrainReport]:
    module = job.module
    _check_given("labels", job.labels, module.dataset.labels_fingerprint)
    given = None if job.labels is None else _given(job, data, job.labels)
    aside = taking_part(data, module.output, None if given is None else len(given.rows))
    _check_aside(data, aside, module.dataset)
    train, test, validation = labelled_data(data, given, module.output.spread_labels)
    weights, report = train_output(
        module,
        train,
        test,
        upstream,
        validation=validation,
        given=given,
        unlabelled=unlabelled_examples(data) if given is None else None,
        arithmetic=arithmetic,
        control=control,
        cache=_cache(job),
        tested=_tested(job, data),
    )
    if report.evaluation is not None and (job.left_out or job.seen):
        marked = report.evaluation.changed(left_out=len(job.left_out), seen=job.seen)
        report = report.changed(evaluation=marked)
    return weights, report


def _tested(job: OutputJob | GroundTruthJob, data: Dataset) -> Tensor | None:
    """Positions of the test examples that are tested on; None for all of them."""
    if not job.left_out:
        return None
    kept = torch.ones(len(data.test), dtype=torch.bool)
    kept[list(job.left_out)] = False
    return kept.nonzero().flatten()


def _given(job: OutputJob, data: Dataset, labels: str) -> GivenLabels:
    found = given_labels(data, job.dataset, labels, job.places)
    _check_same("labels", labels, found.fingerprint, job.module.dataset.labels_fingerprint)
    return given_by_hand(data, found)


def _check_given(what: str, path: str | None, planned: str | None) -> None:
    if path is None and planned is not None:
        raise DataError(
            f"The module is to be trained on a file of {what}, and none is given: give the file "
            f"in '{what}'."
        )


def _check_same(what: str, path: str, found: str | None, planned: str | None) -> None:
    if found != planned:
        raise DataError(
            f"The {what} in {path} have changed since this training was planned: run the command "
            "again, so that it is planned again."
        )


def _measure_new(
    job: Job,
    modules: list[StoredModule],
    data: Dataset,
    arithmetic: Arithmetic,
    control: Control,
    folder: Path,
) -> None:
    """Measure a module that was just trained, on labelled data; it is there all the same if not."""
    if data.train.labels is None:
        return
    try:
        _measure(job, modules, data, arithmetic, control.stop, folder)
    except StoppedError:
        raise
    except Exception as error:
        (folder / MOMENTS_FILE).unlink(missing_ok=True)
        why = str(error) or type(error).__name__
        control.progress({"event": "note", "text": f"The module is not measured: {why}"})


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
    report = report.changed(peak_memory_bytes=peak)
    (folder / REPORT).write_text(report.model_dump_json(indent=1) + "\n")
