"""Test examples that a stored module was trained on: said, and left out of the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from modkernel.data import load_dataset
from modkernel.flows.compose_network import compose_network
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.runtime.events import Event, Note, watch
from modkernel.flows.train_module import train_module
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry
from modkernel.spec import DatasetSpec, HiddenSpec, OutputSpec, Recipe
from tests.flows.helpers.specs import tiny
from tests.flows.helpers.trained import store_modules
from tests.modkernel.helpers.data_made import folder_spec, image_folder, npz, picture


@pytest.mark.long
def test_pictures_added_and_another_seed_after_training(registry: Registry, tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set", {"a": 30, "b": 30})
    dataset = folder_spec(root)
    spec = tiny("grow", epochs=(1,)).changed(dataset=dataset, output=OutputSpec(method="ridge"))
    train_network(spec)
    before = load_dataset(dataset, registry.settings.places)
    for number, name in enumerate("ab" * 5):
        picture(5_000 + number).save(root / name / f"0{number}-new.png")

    notes: list[Event] = []
    with watch(notes.append):
        grown = compose_network("grown", "grow.hidden-1", output=OutputSpec(method="ridge"))
    data = load_dataset(dataset, registry.settings.places)
    assert grown.evaluation is not None
    assert (grown.evaluation.left_out, grown.evaluation.seen) == (0, 0)
    assert sum(map(sum, grown.evaluation.confusion)) == len(data.test)
    assert not [note for note in notes if isinstance(note, Note) and "left out" in note.text]

    # Another seed shares them out anew: of the new test part, the module has seen most.
    other = dataset.changed(split_seed=1)
    with watch(notes.append):
        mixed = compose_network("mixed", "grow.hidden-1", other, OutputSpec(method="ridge"))
    test = load_dataset(other, registry.settings.places).test
    trained = len(set(test.ids) & set(before.train.ids))
    validated = len(set(test.ids) & set(before.validation.ids))
    assert trained > 0
    assert mixed.evaluation is not None
    assert mixed.evaluation.left_out == trained + validated
    assert sum(map(sum, mixed.evaluation.confusion)) == len(test) - trained - validated
    (told,) = [note.text for note in notes if isinstance(note, Note) and "left out" in note.text]
    module = mixed.modules[0]
    assert f"{trained} of the {len(test)} test examples" in told
    assert f"by module {module.id[:12]} (grow.hidden-1)" in told
    assert not validated or f"and {validated} validated on" in told

    # One that only started from the module's weights has seen as much.
    adapting = HiddenSpec(start_from="grow.hidden-1", recipe=Recipe(epochs=1, batch_size=16))
    train_module("adapted.hidden-1", adapting, dataset=other)
    adapted = compose_network("of-adapted", "adapted.hidden-1", other, OutputSpec(method="ridge"))
    assert adapted.evaluation is not None
    assert adapted.evaluation.left_out == mixed.evaluation.left_out

    # The same through retrain, where only the output module is trained again.
    again = retrain_network("grown", "output", dataset=other, seed=5, name="again")
    assert again.evaluation is not None
    assert again.evaluation.left_out == mixed.evaluation.left_out

    # Of a test part that was seen as a whole, all are tested on, and the figure is marked.
    seen = before.train.ids[:1] + before.train.ids[-1:]
    for name in seen:
        target = tmp_path / "known" / "test" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    image_folder(tmp_path / "known", {"train/a": 9, "train/b": 9}, seed=9_000)
    with watch(notes.append):
        known = compose_network("known", "grow.hidden-1", folder_spec(tmp_path / "known"))
    assert known.evaluation is not None
    assert (known.evaluation.left_out, known.evaluation.seen) == (0, 2)
    assert any(isinstance(note, Note) and "no others" in note.text for note in notes)


def test_a_module_that_starts_from_another_is_trained_on_the_data_of_that_one(
    registry: Registry,
) -> None:
    two = DatasetSpec(classes=("0", "1"))
    store_modules(registry, tiny("few", epochs=(1,)).changed(dataset=two, output=None))
    recipe = Recipe(epochs=1, batch_size=16)
    own = train_module("more.hidden-1", HiddenSpec(start_from="few.hidden-1", recipe=recipe))
    assert registry.modules.resolve(own.id).spec.dataset.classes == ("0", "1")


def test_examples_that_get_their_labels_after_they_were_trained_on(
    registry: Registry, tmp_path: Path
) -> None:
    digits = load_digits()
    pixels, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(int)
    few = np.where(np.arange(len(labels)) % 5, -1, labels)
    path = str(npz(tmp_path / "set.npz", x=pixels, y=few))
    sparse = DatasetSpec(name="arrays", path=path, unlabelled=-1)
    spec = tiny("sparse", epochs=(1,)).changed(dataset=sparse, pairs="views", output=None)
    store_modules(registry, spec)
    before = load_dataset(sparse, registry.settings.places, unlabelled=True)
    assert before.unlabelled is not None

    npz(tmp_path / "set.npz", x=pixels, y=labels)
    whole = DatasetSpec(name="arrays", path=path)
    composed = compose_network("all", "sparse.hidden-1", whole, OutputSpec(method="ridge"))
    after = load_dataset(whole, registry.settings.places)
    known = np.concatenate(
        [part.digests for part in (before.train, before.validation, before.unlabelled)]
    )
    seen = int(np.isin(after.test.digests, known).sum())
    assert seen > len(after.test) / 2
    assert composed.evaluation is not None
    assert composed.evaluation.left_out == seen
