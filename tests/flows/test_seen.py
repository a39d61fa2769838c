"""Test examples that a stored module was trained on: said, and left out of the test."""

from __future__ import annotations

from pathlib import Path

from modkernel.data import load_dataset
from modkernel.flows.compose_network import compose_network
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.runtime.events import Event, Note, watch
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry
from modkernel.spec import OutputSpec
from tests.flows.helpers.specs import tiny
from tests.modkernel.helpers.data_made import folder_spec, image_folder, picture


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
