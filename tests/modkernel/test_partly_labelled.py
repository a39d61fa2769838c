"""A file of labels for a set in which some examples have a label and others have none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from modkernel.control import never_stop, no_progress
from modkernel.data import DataPlaces, Dataset, LabelList, Resident, load_dataset, read_labels
from modkernel.errors import DataError
from modkernel.jobs.run import run_job
from modkernel.modules.stored import StoredModule
from modkernel.plan import output_spec
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    OutputModuleSpec,
    OutputSpec,
    Recipe,
)
from modkernel.training import train_network
from modkernel.training.inputs import (
    given_by_hand,
    given_labels,
    labelled_data,
    taking_part,
)
from modkernel.training.output import LabelledData, train_output
from tests.modkernel.helpers.data_made import npz, places
from tests.modkernel.helpers.devices import FLOAT32
from tests.modkernel.test_run_job import files_of, job, report

NAMES = ("left", "right")
CHANCE = np.random.default_rng(0)
TRUTH = CHANCE.integers(0, 2, 240)
X = CHANCE.normal(size=(240, 6)) + 4 * np.eye(6)[TRUTH]
HAS_LABEL = np.arange(240) % 3 == 0
NEW: list[int] = np.flatnonzero(~HAS_LABEL).tolist()
"""Examples without a label."""


def partly(folder: Path, change: float = 0) -> DatasetSpec:
    """A third has a label; `change` is added to a number of one that has none."""
    x, y = X.copy(), np.where(HAS_LABEL, np.array(NAMES)[TRUTH], "?")
    x[NEW[-1], 3] += change
    return DatasetSpec(name="arrays", path=str(npz(folder / "some.npz", x=x, y=y)), unlabelled="?")


def write(folder: Path, rows: Sequence[int], wrong: Sequence[int] = ()) -> Path:
    """A file of labels of some examples, the other class's for those that are `wrong`."""
    path = folder / "labels.csv"
    lines = [f"{row},{NAMES[TRUTH[row] ^ (row in wrong)]}\n" for row in rows]
    path.write_text("".join(["id,label\n", *lines]))
    return path


@pytest.fixture
def below(tmp_path: Path) -> StoredModule:
    spec = NetworkSpec(
        name="some",
        dataset=partly(tmp_path),
        backbone=BackboneSpec(name="mlp", width=16, depth=1),
        hidden=(
            HiddenSpec(
                kernel=KernelSpec(name="relu"), recipe=Recipe(epochs=1, precision="float32")
            ),
        ),
        output=None,
    )
    return train_network(spec, tmp_path / "net", places(tmp_path), device="cpu").modules[0]


def loaded(folder: Path, change: float = 0) -> tuple[DatasetSpec, DataPlaces, Dataset]:
    spec, where = partly(folder, change), places(folder)
    return spec, where, load_dataset(spec, where, unlabelled=True)


def planned(
    folder: Path, below: StoredModule, output: OutputSpec, path: Path
) -> tuple[OutputModuleSpec, LabelList, Dataset]:
    """The spec of an output module on a file of labels, the labels, and the data."""
    spec, where, data = loaded(folder)
    found = given_labels(data, spec, str(path), where)
    aside = taking_part(data, output, len(found.rows))
    module = output_spec(
        output, below.spec, below.id, data.info(), 0, labels=found, unlabelled_fingerprint=aside
    )
    return module, found, data


def test_the_sets_own_labels_count_beside_the_files_which_hold(
    tmp_path: Path, below: StoredModule
) -> None:
    _, _, data = loaded(tmp_path)
    own = [int(name) for name in data.train.ids]
    held_out = int(data.validation.ids[0])
    file = [*NEW[:5], own[0], held_out]
    module, found, _ = planned(
        tmp_path, below, OutputSpec(method="ridge"), write(tmp_path, file, wrong=[own[0]])
    )
    assert found.own == len(own) - 1
    labels = {row: TRUTH[row] for row in [*own, *NEW[:5], held_out]}
    labels[own[0]] ^= 1
    given = given_by_hand(data, found)
    train, test, _ = labelled_data(data, given)
    weights, told = train_output(module, train, test, [below], given=given, arithmetic=FLOAT32)
    rows = sorted(labels, key=str)
    alone = LabelledData(
        Resident.whole(torch.tensor(X[rows], dtype=torch.float32)),
        torch.tensor([labels[row] for row in rows]),
    )
    expected, _ = train_output(module, alone, test, [below], arithmetic=FLOAT32)
    torch.testing.assert_close(weights, expected)
    assert told.examples == len(rows)
    assert told.labels_told == (
        f"{len(rows)} labels for the output module; hidden modules saw the pairs of "
        f"{len(own)} labels"
    )


def test_classes_that_the_file_lacks_are_the_sets_own(tmp_path: Path) -> None:
    spec, where, data = loaded(tmp_path)
    lefts = [row for row in NEW if TRUTH[row] == 0][:3]
    found = given_labels(data, spec, str(write(tmp_path, lefts)), where)
    assert (found.classes, len(found.rows)) == (NAMES, len(data.train) + 3)
    (tmp_path / "labels.csv").write_text(f"id,label\n{lefts[0]},\n")
    with pytest.raises(DataError, match="has no label: write a class"):
        given_labels(data, spec, str(tmp_path / "labels.csv"), where)


def test_once_all_have_a_label_the_sets_own_still_count(tmp_path: Path) -> None:
    """The last ones may get theirs in the set itself."""
    spec, where = partly(tmp_path), places(tmp_path)
    np.savez(str(spec.path), x=X, y=np.array(NAMES)[TRUTH])
    data = load_dataset(spec, where, unlabelled=True)
    assert data.unlabelled is None
    held_out = [int(name) for name in data.validation.ids]
    first = [next(row for row in held_out if TRUTH[row] == label) for label in (0, 1)]
    path = str(write(tmp_path, first))
    found = given_labels(data, spec, path, where)
    assert (len(found.rows), found.own) == (len(data.train) + 2, len(data.train))
    assert given_by_hand(data, found).known is None, "hidden modules may have seen them all"
    alone = given_labels(data, spec.changed(unlabelled=None), path, where)
    assert (len(alone.rows), alone.own, alone.classes) == (2, 0, NAMES)
    assert found.fingerprint != alone.fingerprint, "another training"


def test_the_fingerprint_holds_which_examples_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, NEW[-3:])

    def fingerprint(path: Path) -> str:
        spec, where, data = loaded(tmp_path)
        return given_labels(data, spec, str(path), where).fingerprint

    before = fingerprint(path)
    assert before == fingerprint(write(tmp_path, NEW[:-4:-1]))
    assert before != read_labels(path, [str(row) for row in NEW], NAMES).fingerprint, "these alone"
    spec, where, data = loaded(tmp_path, change=1)
    assert given_labels(data, spec, str(path), where).fingerprint != before


@pytest.mark.parametrize("spread", [False, True])
def test_a_job_trains_on_both_and_knows_the_examples_without_a_label(
    tmp_path: Path, below: StoredModule, spread: bool
) -> None:
    path = write(tmp_path, NEW[:5])
    output = OutputSpec(method="ridge", spread_labels=spread)
    module, found, data = planned(tmp_path, below, output, path)
    assert module.dataset.unlabelled_fingerprint == data.unlabelled_fingerprint
    planned_job = job(
        tmp_path,
        places(tmp_path),
        kind="output",
        module=module,
        dataset=partly(tmp_path),
        labels=str(path),
        upstream=(files_of(below),),
    )
    run_job(planned_job, no_progress, never_stop)
    told = report(planned_job)
    assert told.examples == len(found.rows) == len(data.train) + 5
    assert told.evaluation is not None
    others = len(data.training_part()) + len(data.unlabelled or ()) - len(found.rows)
    assert told.evaluation.spread_over == (others if spread else 0)
    assert told.evaluation.accuracy > 0.8
    partly(tmp_path, change=1)
    with pytest.raises(DataError, match="that have no label have changed"):
        run_job(planned_job, no_progress, never_stop)
