"""Which examples stored modules have seen, against counts by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from modkernel.data import ExampleDigests, example_digests, load_dataset
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import folder_spec, image_folder, picture, places
from tests.registry.helpers.bundles import rows

pytestmark = pytest.mark.home("one")


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


CHANGES = ({}, {"split_seed": 3}, {"test_fraction": 0.5})
GIVEN = ({}, {"pairs_fingerprint": "p"}, {"labels_fingerprint": "l"})


def test_the_count_is_that_of_comparing_every_file(any_settings: Settings, tmp_path: Path) -> None:
    old = folder_spec(image_folder(tmp_path / "old", {"a": 30, "b": 30}))
    grown = folder_spec(image_folder(tmp_path / "new", {"a": 40, "b": 30}))
    for number in range(9):  # Copies of old pictures, under other names and in another class.
        picture(number + 1).save(tmp_path / "new" / "b" / f"copy-{number}.png")
    before, has = example_digests(old, places(tmp_path)), contents(old, tmp_path)
    with Registry.open(any_settings) as registry:
        registry.examples.remember(before)
        registry.examples.remember(before)
        (record,) = registry.modules.find()
        for changes, given in product(CHANGES, GIVEN):
            new = grown.changed(**changes)
            after, tested = example_digests(new, places(tmp_path)), contents(new, tmp_path)["test"]
            module = trained_on(record, before.fingerprint, **given)
            seen = registry.examples.seen([module], after.fingerprint, after.test)
            fitted = has["train"] + (has["validation"] if given else [])
            assert seen.trained.tolist() == [content in fitted for content in tested]
            assert seen.validated.tolist() == [
                content in has["validation"] and content not in fitted for content in tested
            ]
            some = seen.trained | seen.validated
            assert bool(some.any()) == bool(changes)
            assert seen.by == (module,) * bool(some.any())
            assert seen.unknown == ()


def test_what_a_bundle_says_serves_until_somebody_has_read_the_data(
    any_settings: Settings,
) -> None:
    fingerprint, none = "d" * 64, np.empty(0, np.int64)
    part = np.arange(9)
    read = ExampleDigests(fingerprint, part[:6], part[6:8], part[8:])
    told, other = (ExampleDigests(fingerprint, part[:n], none, none) for n in (1, 2))
    with Registry.open(any_settings) as registry:
        known = registry.examples
        module = trained_on(*registry.modules.find(), fingerprint)

        def seen() -> int:
            return int(known.seen([module], "e" * 64, part).trained.sum())

        known.remember(told, from_bundle=True)
        known.remember(other, from_bundle=True)
        assert (known.has(fingerprint), seen()) == (False, 1)
        known.remember(read)
        known.remember(other, from_bundle=True)
        assert (known.has(fingerprint), seen(), rows(registry)["examples"]) == (True, 6, 1)


def test_what_is_not_known_is_said_and_the_very_same_data_cost_nothing(
    registry: Registry, records: tuple[ModuleRecord, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = records
    found = registry.examples.seen([record], "a" * 64, np.arange(5))
    assert found.unknown == (record,)
    assert not (found.trained | found.validated).any()

    def forbid(*_: object) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr(type(registry.examples), "of", forbid)
    same = registry.examples.seen([record], record.spec.dataset.fingerprint, np.arange(5))
    assert (same.by, same.unknown) == ((), ())
