"""Jobs done in this process: from the job file's content to the result folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from modkernel.control import Progress, Stop, never_stop, no_progress
from modkernel.data import DataPlaces, describe_dataset, load_dataset, read_pairs
from modkernel.errors import DataError, StoppedError
from modkernel.features.cache import FeatureCache
from modkernel.features.measure import measured_features
from modkernel.jobs.job import Job, UpstreamFiles
from modkernel.jobs.run import run_job
from modkernel.modules.stored import StoredModule, read_module
from modkernel.plan import facts, output_spec, plan_network
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import MOMENTS_FILE, read_moments
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    OutputSpec,
    Recipe,
)
from modkernel.training import TrainReport
from modkernel.training.end_to_end import baseline_key
from tests.modkernel.helpers.data_made import folder_spec, image_folder
from tests.modkernel.helpers.devices import DEVICE

pytestmark = pytest.mark.gpu

SPEC = NetworkSpec(
    name="digits",
    backbone=BackboneSpec(name="mlp", width=64),
    hidden=(
        HiddenSpec(kernel=KernelSpec(name="relu"), recipe=Recipe(epochs=8, precision="float32")),
    ),
    output=OutputSpec(labels_per_class=2, draws=3, method="ridge"),
)


@pytest.fixture
def places(tmp_path: Path) -> DataPlaces:
    return DataPlaces(root=tmp_path / "data", cache=tmp_path / "cache", download=False)


def job(tmp_path: Path, places: DataPlaces, **fields: object) -> Job:
    work = tmp_path / "work" / str(fields["kind"])
    work.mkdir(parents=True, exist_ok=True)
    return TypeAdapter(Job).validate_python(
        {
            "dataset": DatasetSpec(),
            "data_root": str(places.root),
            "cache": str(places.cache),
            "device": DEVICE.type,
            "work": str(work),
            "slots": str(tmp_path / "slots"),
            **fields,
        }
    )


def report(job: Job) -> TrainReport:
    return TrainReport.model_validate_json((job.result / "report.json").read_bytes())


def train_hidden_job(
    tmp_path: Path,
    places: DataPlaces,
    progress: Progress = no_progress,
    stop: Stop = never_stop,
) -> tuple[Job, StoredModule]:
    info = describe_dataset(SPEC.dataset, places)
    (plan,) = plan_network(SPEC, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0)
    hidden = job(tmp_path, places, kind="hidden", module=module)
    run_job(hidden, progress, stop)
    return hidden, read_module(hidden.result)


def test_a_hidden_job_then_an_output_job(tmp_path: Path, places: DataPlaces) -> None:
    first, hidden = train_hidden_job(tmp_path, places)
    assert len(report(first).history) == 8
    # On a GPU it is what was allocated there, which is less than a process takes.
    assert (report(first).peak_memory_bytes or 0) > (10 << 20 if DEVICE.type == "cpu" else 100_000)
    info = describe_dataset(SPEC.dataset, places)
    assert SPEC.output is not None
    output = job(
        tmp_path,
        places,
        kind="output",
        module=output_spec(SPEC.output, hidden.spec, hidden.id, info, 0),
        upstream=(files_of(hidden),),
    )
    run_job(output, no_progress, never_stop)
    found = report(output).evaluation
    assert found is not None
    assert (found.labels, found.draws) == (20, 3)
    assert found.accuracy_all_labels > 0.9
    assert read_module(output.result).spec.interface.stands_on == (hidden.id,)


def test_a_baseline_job_learns_and_goes_on_where_it_stopped(
    tmp_path: Path, places: DataPlaces
) -> None:
    info = describe_dataset(SPEC.dataset, places)
    baseline = job(tmp_path, places, kind="end_to_end", network=SPEC, fingerprint=info.fingerprint)
    epochs: list[int] = []
    with pytest.raises(StoppedError):
        run_job(baseline, lambda event: epochs.append(event["epoch"]), lambda: len(epochs) == 2)
    assert not baseline.result.exists()
    run_job(baseline, lambda event: epochs.append(event["epoch"]), never_stop)
    assert epochs == list(range(1, 9))
    found = report(baseline)
    assert found.recipe_digest == baseline_key(SPEC, info).digest()
    assert found.evaluation is not None
    assert found.evaluation.accuracy > 0.9


def moments_of(folder: Path) -> ModuleMoments:
    path = folder / MOMENTS_FILE
    return read_moments(path, hashlib.sha256(path.read_bytes()).hexdigest())


def files_of(stored: StoredModule) -> UpstreamFiles:
    return UpstreamFiles(
        folder=str(stored.folder),
        weights_sha256=stored.weights_sha256,
        spec_sha256=stored.spec_sha256,
    )


def test_a_hidden_job_leaves_moments_of_its_data_and_a_measure_job_those_of_other_data(
    tmp_path: Path, places: DataPlaces
) -> None:
    _, hidden = train_hidden_job(tmp_path, places)
    own = moments_of(hidden.folder)
    info = describe_dataset(SPEC.dataset, places)
    assert own.module_id == hidden.id
    assert (own.train.fingerprint, own.train.classes) == (info.fingerprint, info.classes)
    assert own.train.examples == info.n_train, "digits has fewer than a thousand a class"
    few = DatasetSpec(classes=("3", "1", "4"))
    planned = describe_dataset(few, places)
    other = job(
        tmp_path,
        places,
        kind="measure",
        dataset=few,
        fingerprint=planned.fingerprint,
        upstream=(files_of(hidden),),
        features=str(tmp_path / "features"),
        feature_limit=1 << 30,
    )
    run_job(other, no_progress, never_stop)
    assert [path.name for path in other.result.iterdir()] == [MOMENTS_FILE]
    found = moments_of(other.result)
    assert found.module_id == hidden.id
    assert (found.train.fingerprint, found.train.classes) == (planned.fingerprint, few.classes)
    cache = FeatureCache(tmp_path / "features", 1 << 30)
    kept = measured_features(cache, hidden.id, planned.fingerprint)
    assert kept is not None
    assert torch.bincount(kept.train_labels).tolist() == found.train.counts.tolist()
    # Of one number of classes, what a class has does not depend on which others are chosen.
    threes = own.train.classes.index("3")
    # A GPU's features differ in their last digits with the batch that they are computed in.
    torch.testing.assert_close(
        found.train.products[0], own.train.products[threes], rtol=1e-5, atol=1e-5
    )


def test_a_module_of_too_many_features_is_stored_without_moments(
    tmp_path: Path, places: DataPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modkernel.reuse.moments.MOMENTS_LIMIT", 100)
    seen: list[Mapping[str, Any]] = []
    hidden, _ = train_hidden_job(tmp_path, places, seen.append)
    assert sorted(path.name for path in hidden.result.iterdir()) == [
        "report.json",
        "spec.json",
        "weights.safetensors",
    ]
    (note,) = (event for event in seen if event["event"] == "note")
    assert "not measured" in note["text"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError(), OSError("disk")])
def test_a_module_that_cannot_be_measured_is_not_lost(
    tmp_path: Path, places: DataPlaces, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half(path: Path, _: ModuleMoments) -> str:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("modkernel.jobs.run.write_moments", half)
    seen: list[Mapping[str, Any]] = []
    hidden, stored = train_hidden_job(tmp_path, places, seen.append)
    assert stored.id
    assert not (hidden.result / MOMENTS_FILE).exists()
    (note,) = (event for event in seen if event["event"] == "note")
    assert (str(error) or "MemoryError") in note["text"]


def test_data_that_change_between_planning_and_training_are_refused(
    tmp_path: Path, places: DataPlaces
) -> None:
    root = image_folder(tmp_path / "set", {"a": 12, "b": 12})
    info = describe_dataset(folder_spec(root), places)
    (plan,) = plan_network(SPEC, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0)
    planned = job(tmp_path, places, kind="hidden", module=module, dataset=folder_spec(root))
    (root / "a" / "003.png").unlink()
    with pytest.raises(DataError, match="has changed since this training was planned: run the"):
        run_job(planned, no_progress, never_stop)
    assert not planned.result.exists()


def test_a_job_on_pairs_trains_on_those_it_was_planned_with(
    tmp_path: Path, places: DataPlaces
) -> None:
    data = load_dataset(SPEC.dataset, places)
    part = data.training_part()
    assert part.labels is not None
    ids, labels = part.ids[:400], part.labels[:400].tolist()
    text = "".join(
        f"{ids[a]},{ids[b]},{int(labels[a] == labels[b])}\n"
        for a in range(0, 390)
        for b in range(a + 1, a + 10)
    )
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    known = read_pairs(path, part.ids, None, data.test.ids).fingerprint
    info = describe_dataset(SPEC.dataset, places)
    (plan,) = plan_network(SPEC, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info, known), 0)
    planned = job(tmp_path, places, kind="hidden", module=module, pairs=str(path))
    with pytest.raises(DataError, match="file of pairs, and none is given"):
        run_job(planned.changed(pairs=None), no_progress, never_stop)
    path.write_text(text.partition("\n")[2])
    with pytest.raises(DataError, match=r"pairs in .* have changed"):
        run_job(planned, no_progress, never_stop)
    path.write_text(text)
    # By the name that this machine has for it.
    named = planned.changed(pairs="known", data_paths={"known": str(path)})
    run_job(named, no_progress, never_stop)
    assert read_module(planned.result).spec == module


def test_a_job_stopped_while_it_measures_trains_nothing_again(
    tmp_path: Path, places: DataPlaces
) -> None:
    epochs: list[int] = []

    def note(event: Mapping[str, Any]) -> None:
        epochs.append(event["epoch"])

    with pytest.raises(StoppedError, match="modules below"):
        train_hidden_job(tmp_path, places, note, lambda: len(epochs) == 8)
    assert not (tmp_path / "work" / "hidden" / "result").exists()
    _, hidden = train_hidden_job(tmp_path, places, note)
    assert epochs == list(range(1, 9))
    assert moments_of(hidden.folder).module_id == hidden.id


def test_a_job_names_what_its_kind_needs(tmp_path: Path, places: DataPlaces) -> None:
    with pytest.raises(ValidationError, match=r"measure\.network\s+Extra inputs"):
        job(tmp_path, places, kind="measure", network=SPEC, fingerprint="f" * 64)
    with pytest.raises(ValidationError, match=r"end_to_end\.fingerprint\s+Field required"):
        job(tmp_path, places, kind="end_to_end", network=SPEC)


def test_data_that_changed_since_the_plan_is_refused(tmp_path: Path, places: DataPlaces) -> None:
    info = describe_dataset(SPEC.dataset, places)
    (plan,) = plan_network(SPEC, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0)
    other = job(tmp_path, places, kind="hidden", module=module, dataset=DatasetSpec(split_seed=1))
    with pytest.raises(DataError, match="has changed"):
        run_job(other, no_progress, never_stop)
    assert not other.result.exists()
