"""Jobs done in this process: from the job file's content to the result folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from modkernel.data import DataPlaces, describe_dataset
from modkernel.errors import DataError, StoppedError
from modkernel.job import Job, UpstreamFiles
from modkernel.plan import facts, output_spec, plan_network
from modkernel.run_job import run_job
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    OutputSpec,
    Recipe,
)
from modkernel.stored import StoredModule, read_module
from modkernel.training import TrainReport
from modkernel.training.end_to_end import baseline_key
from modkernel.training.report import never_stop, no_progress

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
    work.mkdir(parents=True)
    return Job.model_validate(
        {
            "dataset": DatasetSpec(),
            "data_root": str(places.root),
            "cache": str(places.cache),
            "device": "cpu",
            "work": str(work),
            "slots": str(tmp_path / "slots"),
            **fields,
        }
    )


def report(job: Job) -> TrainReport:
    return TrainReport.model_validate_json((job.result / "report.json").read_bytes())


def train_hidden_job(tmp_path: Path, places: DataPlaces) -> tuple[Job, StoredModule]:
    info = describe_dataset(SPEC.dataset, places)
    (plan,) = plan_network(SPEC, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0)
    hidden = job(tmp_path, places, kind="hidden", module=module)
    run_job(hidden, no_progress, never_stop)
    return hidden, read_module(hidden.result)


def test_a_hidden_job_then_an_output_job(tmp_path: Path, places: DataPlaces) -> None:
    first, hidden = train_hidden_job(tmp_path, places)
    assert len(report(first).history) == 8
    assert (report(first).peak_memory_bytes or 0) > 10 << 20
    info = describe_dataset(SPEC.dataset, places)
    assert SPEC.output is not None
    output = job(
        tmp_path,
        places,
        kind="output",
        module=output_spec(SPEC.output, hidden.spec, hidden.id, info, 0),
        upstream=(
            UpstreamFiles(
                folder=str(hidden.folder),
                weights_sha256=hidden.weights_sha256,
                spec_sha256=hidden.spec_sha256,
            ),
        ),
    )
    run_job(output, no_progress, never_stop)
    found = report(output).evaluation
    assert found is not None
    assert (found.labels, found.draws) == (20, 3)
    assert found.accuracy_all_labels > 0.9
    assert read_module(output.result).spec.interface.upstream == hidden.id


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


def test_data_that_changed_since_the_plan_is_refused(tmp_path: Path, places: DataPlaces) -> None:
    info = describe_dataset(SPEC.dataset, places)
    (plan,) = plan_network(SPEC, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0)
    other = job(tmp_path, places, kind="hidden", module=module, dataset=DatasetSpec(split_seed=1))
    with pytest.raises(DataError, match="has changed"):
        run_job(other, no_progress, never_stop)
    assert not other.result.exists()
