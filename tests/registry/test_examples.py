"""Which examples stored modules have seen, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modkernel.data import example_digests, load_dataset
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import folder_spec, image_folder, picture, places
from tests.registry.helpers.examples import Examples, store_one


def contents(spec: DatasetSpec, where: Path) -> dict[str, list[bytes]]:
    """The bytes of the files in each part."""
    data = load_dataset(spec, places(where))
    assert spec.path is not None
    return {
        part: [Path(spec.path, name).read_bytes() for name in getattr(data, part).ids]
        for part in ("train", "validation", "test")
    }


def trained_on(record: ModuleRecord, fingerprint: str, **facts: str) -> ModuleRecord:
    known = record.spec.dataset.changed(fingerprint=fingerprint, **facts)
    return record.model_copy(update={"spec": record.spec.changed(dataset=known)})


@pytest.mark.parametrize("changes", [{}, {"split_seed": 3}, {"test_fraction": 0.5}])
@pytest.mark.parametrize("given", [{}, {"pairs_fingerprint": "p"}, {"labels_fingerprint": "l"}])
def test_the_count_is_that_of_comparing_every_file(
    any_settings: Settings, examples: Examples, tmp_path: Path, changes: dict, given: dict
) -> None:
    old = folder_spec(image_folder(tmp_path / "old", {"a": 30, "b": 30}))
    new = folder_spec(image_folder(tmp_path / "new", {"a": 40, "b": 30})).changed(**changes)
    for number in range(9):  # Copies of old pictures, under other names and in another class.
        picture(number + 1).save(tmp_path / "new" / "b" / f"copy-{number}.png")
    with Registry.open(any_settings) as registry:
        before, after = (example_digests(spec, places(tmp_path)) for spec in (old, new))
        registry.examples.remember(before)
        registry.examples.remember(before)
        record = store_one(registry, examples.first())
        module = trained_on(record, before.fingerprint, **given)
        seen = registry.examples.seen([module], after.fingerprint, after.test)
        has, tested = contents(old, tmp_path), contents(new, tmp_path)["test"]
        fitted = has["train"] + (has["validation"] if given else [])
        assert seen.trained.tolist() == [content in fitted for content in tested]
        assert seen.validated.tolist() == [
            content in has["validation"] and content not in fitted for content in tested
        ]
        some = seen.trained | seen.validated
        assert bool(some.any()) == bool(changes)
        assert seen.by == (module,) * bool(some.any())
        assert seen.unknown == ()


def test_what_is_not_known_is_said_and_the_very_same_data_cost_nothing(
    registry: Registry, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = store_one(registry, examples.first())
    found = registry.examples.seen([record], "a" * 64, np.arange(5))
    assert found.unknown == (record,)
    assert not (found.trained | found.validated).any()

    def forbid(*_: object) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(type(registry.examples), "of", forbid)
    same = registry.examples.seen([record], record.spec.dataset.fingerprint, np.arange(5))
    assert (same.by, same.unknown) == ((), ())
