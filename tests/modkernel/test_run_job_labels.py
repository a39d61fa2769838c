"""Output jobs on a file of labels: they train on what was planned, or say that it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modkernel.control import never_stop, no_progress
from modkernel.data import DataPlaces, describe_dataset, load_dataset, read_labels
from modkernel.errors import DataError
from modkernel.jobs.job import Job
from modkernel.jobs.run import run_job
from modkernel.plan import output_spec
from modkernel.spec import DatasetSpec, OutputSpec
from tests.modkernel.test_run_job import files_of, job, places, report, train_hidden_job

pytestmark = pytest.mark.gpu

__all__ = ["places"]  # A fixture.


@pytest.fixture
def planned(tmp_path: Path, places: DataPlaces) -> tuple[Job, Path]:
    """An output job on a file of forty labels, and the file."""
    _, hidden = train_hidden_job(tmp_path, places)
    data = load_dataset(DatasetSpec(), places)
    part = data.training_part()
    assert part.labels is not None
    names = [data.classes[label] for label in part.labels[:40].tolist()]
    path = tmp_path / "labels.csv"
    path.write_text(
        "".join(f"{one},{name}\n" for one, name in zip(part.ids[:40], names, strict=True))
    )
    found = read_labels(path, part.ids, data.classes)
    info = describe_dataset(DatasetSpec(), places)
    spec = output_spec(OutputSpec(), hidden.spec, hidden.id, info, 0, labels=found)
    assert spec.dataset.labels_fingerprint == found.fingerprint
    assert spec.digest() != output_spec(OutputSpec(), hidden.spec, hidden.id, info, 0).digest()
    output = job(
        tmp_path,
        places,
        kind="output",
        module=spec,
        labels=str(path),
        upstream=(files_of(hidden),),
    )
    return output, path


def test_the_labels_of_the_file_are_used(planned: tuple[Job, Path]) -> None:
    output, _ = planned
    run_job(output, no_progress, never_stop)
    found = report(output)
    assert found.examples == 40
    assert found.evaluation is not None
    assert (found.evaluation.labels, found.evaluation.draws) == (40, 1)
    assert 0.6 < found.evaluation.accuracy <= found.evaluation.accuracy_all_labels


def test_labels_that_changed_since_the_plan_are_refused(planned: tuple[Job, Path]) -> None:
    output, path = planned
    first, *rest = path.read_text().splitlines()
    name, _, label = first.partition(",")
    path.write_text("\n".join([f"{name},{(int(label) + 1) % 10}", *rest]))
    with pytest.raises(DataError, match="have changed"):
        run_job(output, no_progress, never_stop)
    assert not output.result.exists()


def test_a_module_of_a_file_of_labels_is_not_trained_without_it(planned: tuple[Job, Path]) -> None:
    output, _ = planned
    with pytest.raises(DataError, match="file of labels, and none is given"):
        run_job(output.changed(labels=None), no_progress, never_stop)
