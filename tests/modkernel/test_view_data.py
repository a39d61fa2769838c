"""What a data set gives to views: no label, examples without one, a list of pairs beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modkernel.control import never_stop, no_progress
from modkernel.data import DataPlaces, Dataset, Resident, Streamed, load_dataset
from modkernel.data.label_budget import check_output
from modkernel.errors import DataError, InterfaceError, PairError, SpecError
from modkernel.jobs.run import run_job
from modkernel.plan import check_hidden, facts, plan_network
from modkernel.spec import DatasetSpec, HiddenSpec, NetworkSpec, OutputSpec, Recipe, pairs_from
from modkernel.spec.pairs import with_file
from modkernel.training.inputs import pair_data
from modkernel.training.network import train_network
from tests.modkernel.helpers.data_made import folder_spec, image_folder, npz, places
from tests.modkernel.helpers.training_examples import made_images
from tests.modkernel.test_run_job import job

HIDDEN = (HiddenSpec(recipe=Recipe(epochs=1, batch_size=32)),)


def archive(path: Path, labels: np.ndarray | None) -> DatasetSpec:
    """120 images with these labels, and 30 of a test part of their own."""
    images, _ = made_images(120)
    tests, truth = made_images(30, 1)
    named = {} if labels is None else {"y": labels, "y_test": truth.numpy()}
    path.parent.mkdir(parents=True, exist_ok=True)
    npz(path, x=images.numpy(), x_test=tests.numpy(), **named)
    return DatasetSpec(name="arrays", path=str(path))


def network(dataset: DatasetSpec, pairs: str | None = "views") -> NetworkSpec:
    return NetworkSpec(name="made", dataset=dataset, hidden=HIDDEN, output=None, pairs=pairs)


TRUTH = np.arange(120) % 3


def test_no_label_reaches_the_training(tmp_path: Path) -> None:
    """Right, permuted or removed: the weights are the same, bit for bit."""
    labels = {
        "right": TRUTH,
        "permuted": np.random.default_rng(0).permutation(TRUTH),
        "none": None,
    }
    found = []
    for name, given in labels.items():
        spec = network(archive(tmp_path / name / "data.npz", given))
        trained = train_network(spec, tmp_path / name / "out", places(tmp_path / name))
        found.append((trained.modules[0].folder / "weights.safetensors").read_bytes())
        assert not trained.modules[0].spec.dataset.saw_labels
    assert found[0] == found[1] == found[2]
    on_labels = train_network(
        network(archive(tmp_path / "l" / "data.npz", TRUTH), None), tmp_path / "l" / "out"
    )
    assert (on_labels.modules[0].folder / "weights.safetensors").read_bytes() != found[0]


def loaded(spec: DatasetSpec, where: DataPlaces) -> Dataset:
    return load_dataset(spec, where, unlabelled=True)


def test_examples_without_a_label_take_part_by_their_views(tmp_path: Path) -> None:
    labels = np.where(np.arange(120) < 60, TRUTH, -1)
    spec = archive(tmp_path / "data.npz", labels).changed(unlabelled="-1")
    data, where = loaded(spec, places(tmp_path)), places(tmp_path)
    assert data.unlabelled is not None
    assert len(data.unlabelled) == 60
    assert set(data.unlabelled.ids).isdisjoint(data.training_part().ids)
    train, validation, known = pair_data(data, spec, "views+labels", where)
    n = len(data.train)
    assert train.pairs.n_examples == len(train.examples) == n + 60
    (batch,) = train.examples.batches([torch.arange(n + 60)])
    assert torch.equal(batch[n:], data.unlabelled.examples.batch(torch.arange(60)))
    same = train.pairs.for_batch(torch.arange(n + 60)).same[: n + 60, : n + 60]
    alike = (data.train.labels[:, None] == data.train.labels).fill_diagonal_(False)
    assert torch.equal(same[:n, :n], alike)
    assert not same[n:].any()
    assert validation.pairs.n_examples == len(data.validation_part())
    assert known.unlabelled_fingerprint is not None
    assert known.pairs == "views+labels"
    # Others are other data, and without being asked for none are read.
    fewer = archive(tmp_path / "b" / "data.npz", np.where(np.arange(120) == 61, 0, labels))
    other = loaded(fewer.changed(unlabelled="-1"), places(tmp_path / "b"))
    assert other.unlabelled_fingerprint != known.unlabelled_fingerprint
    assert load_dataset(spec, where).unlabelled is None
    plain = pair_data(load_dataset(spec, where), spec, None, where)[2]
    assert plain.digest() == facts(data.info()).digest()


def test_a_rare_class_is_validated_on_beside_views_as_without(tmp_path: Path) -> None:
    """A set that trains on labels alone and on views alone trains on both."""
    path = npz(tmp_path / "data.npz", x=made_images(120)[0].numpy(), y=np.arange(120) // 117)
    spec, where = DatasetSpec(name="arrays", path=str(path)), places(tmp_path)
    data = load_dataset(spec, where)
    assert data.validation.labels is not None
    assert len(data.validation.labels.unique()) == 1  # Its own are all of one label.
    _, alone, _ = pair_data(data, spec, None, where)
    _, both, _ = pair_data(data, spec, "views+labels", where)
    everyone = torch.arange(len(data.validation_part()))
    assert torch.equal(
        both.examples.batch(everyone), data.validation_part().examples.batch(everyone)
    )
    same = both.pairs.for_batch(everyone).same[: len(everyone), : len(everyone)]
    assert torch.equal(same, alone.pairs.for_batch(everyone).same)
    train_network(network(spec, "views+labels"), tmp_path / "out", where)
    # Of views alone, no label says what is validated on.
    assert pair_data(data, spec, "views", where)[1].pairs.n_examples == len(data.validation)


def test_more_examples_without_a_label_than_memory_holds_are_streamed(tmp_path: Path) -> None:
    parts = {"train/a": 5, "train/b": 5, "train/none": 40, "test/a": 2, "test/b": 2}
    spec = folder_spec(image_folder(tmp_path / "set", parts), unlabelled="none")
    where = places(tmp_path)
    size = load_dataset(spec, where).train.examples.batch(torch.tensor([0])).numel()
    data = load_dataset(spec, where, 20 * size, unlabelled=True)
    assert data.unlabelled is not None
    assert isinstance(data.train.examples, Resident)
    assert isinstance(data.unlabelled.examples, Streamed)
    train, _, _ = pair_data(data, spec, "views", where)
    n = len(data.train)
    assert len(train.examples) == n + 40
    (batch,) = train.examples.batches([torch.tensor([n + 39, 0, n])])
    aside = data.unlabelled.examples.batch(torch.tensor([39, 0]))
    assert torch.equal(batch[[0, 2]], aside)
    assert torch.equal(batch[1], data.train.examples.tensor[0])


def test_a_set_whose_labels_are_all_hidden_is_one_without_labels(tmp_path: Path) -> None:
    spec = archive(tmp_path / "data.npz", np.full(120, -1)).changed(unlabelled="-1")
    npz(tmp_path / "data.npz", x=made_images(120)[0].numpy(), y=np.full(120, -1))
    info = load_dataset(spec, places(tmp_path)).info()
    assert not info.labelled
    assert "None of the 120 examples has a label" in info.findings[0].text
    with pytest.raises(PairError, match="set 'pairs: views', which needs none"):
        check_hidden(HIDDEN, info)
    with pytest.raises(PairError, match="no class labels"):
        check_hidden(HIDDEN, info, "views+labels")
    check_hidden(HIDDEN, info, "views")
    with pytest.raises(DataError, match="no class labels"):
        check_output(OutputSpec(), info)


def test_listed_pairs_beside_views(tmp_path: Path) -> None:
    spec, where = archive(tmp_path / "data.npz", None), places(tmp_path)
    data = loaded(spec, where)
    a, b, c = data.train.ids[:3]
    v, w = data.validation.ids[:2]
    path = tmp_path / "pairs.csv"
    path.write_text(f"{a},{b},1\n{b},{c},0\n{v},{w},1\n{a},{v},1\n")
    train, validation, known = pair_data(data, spec, f"views+{path}", where)
    assert (train.pairs.n_same, validation.pairs.n_same) == (
        len(data.train) + 4,
        len(data.validation) + 4,
    )
    assert known.pairs_fingerprint is not None
    assert known.pairs == "views"
    assert known.saw_labels
    assert not known.saw_validation(known.name, known.fingerprint)
    path.write_text(f"{a},{v},1\n")
    with pytest.raises(PairError, match="None of the pairs"):
        pair_data(data, spec, f"views+{path}", where)


def test_the_word_of_the_field_and_a_path() -> None:
    assert pairs_from("views+labels") == (True, True, None)
    assert pairs_from("views + a+b.csv") == (True, False, "a+b.csv")
    assert pairs_from("viewsets/pairs.csv") == (False, False, "viewsets/pairs.csv")
    assert pairs_from("./views") == (False, False, "./views")
    assert with_file("views+a.csv", "/b/a.csv") == "views+/b/a.csv"
    assert with_file("a.csv", "/b/a.csv") == "/b/a.csv"
    assert with_file("views", "ignored") == "views"


@pytest.mark.parametrize(
    ("recipe", "error", "told"),
    [
        (Recipe(crop_padding=2), SpecError, "leave crop_padding"),
        (Recipe(flip=True, views=2), SpecError, "leave views"),
    ],
)
def test_another_random_change_beside_views_is_refused(
    tmp_path: Path, recipe: Recipe, error: type[Exception], told: str
) -> None:
    info = load_dataset(archive(tmp_path / "data.npz", None), places(tmp_path)).info()
    with pytest.raises(error, match=told):
        check_hidden((HiddenSpec(recipe=recipe),), info, "views")


def test_vectors_cannot_be_mirrored(tmp_path: Path) -> None:
    npz(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(40, 5)))
    spec = DatasetSpec(name="arrays", path=str(tmp_path / "data.npz"))
    info = load_dataset(spec, places(tmp_path)).info()
    check_hidden((HiddenSpec(),), info, "views")
    with pytest.raises(InterfaceError, match="flip"):
        check_hidden((HiddenSpec(recipe=Recipe(flip=True)),), info, "views")


def test_a_job_trains_on_what_was_planned(tmp_path: Path) -> None:
    spec, where = archive(tmp_path / "data.npz", TRUTH), places(tmp_path)
    data = load_dataset(spec, where)
    info = data.info()
    (plan,) = plan_network(network(spec), info)
    known = pair_data(data, spec, "views", where)[2]
    module = plan.spec(info.preprocessing.id, info.preprocessing, known, 0)
    planned = job(tmp_path, where, kind="hidden", module=module, pairs="views", dataset=spec)
    with pytest.raises(DataError, match="pairs of views, and the job names none"):
        run_job(planned.changed(pairs=None), no_progress, never_stop)
    run_job(planned, no_progress, never_stop)
    assert (planned.result / "moments.safetensors").exists()
