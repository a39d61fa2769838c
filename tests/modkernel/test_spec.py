"""Specs: strict, frozen, with a digest that depends on the content alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modkernel.errors import SpecError, UnknownNameError
from modkernel.lookup import import_object, is_import_path, lookup
from modkernel.spec import (
    DatasetFacts,
    DatasetSpec,
    HiddenModuleSpec,
    HiddenSpec,
    NetworkSpec,
    OutputSpec,
    Preprocessing,
    Recipe,
    parse_module_spec,
)
from tests.modkernel.helpers.stored_examples import hidden_spec

SPEC = hidden_spec(("stem",), (1, 8, 8), (2, 8, 8), "preprocessing-x")


def test_the_digest_is_that_of_the_canonical_json() -> None:
    text = SPEC.canonical_json()
    assert SPEC.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert parse_module_spec(text) == SPEC
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_equal_specs_have_equal_digests_and_others_do_not(a: int, b: int) -> None:
    first, second = NetworkSpec(name="n", seed=a), NetworkSpec(name="n", seed=b)
    assert (first.digest() == second.digest()) == (a == b)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"blocks": ["stem", "layer1.0"]},
        {"format": 2},
        {"dataset": {"name": "digits", "fingerprint": "1" * 64, "classes": ["0", "1"]}},
        {"hidden": {"recipe": {"epochs": 11}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_decides_training_is_in_the_digest(change: dict[str, Any]) -> None:
    other = HiddenModuleSpec.model_validate({**SPEC.model_dump(mode="json"), **change})
    assert other.digest() != SPEC.digest()


def test_specs_are_frozen_and_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SPEC.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        NetworkSpec.model_validate({"name": "n", "epoch": 3})


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "a:b", "-a", "a b", "a" * 101])
def test_names_that_mlflow_or_a_shell_would_stumble_over_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        NetworkSpec(name=name)


def test_a_data_set_without_groups_has_the_digest_that_it_had_before_there_were_any() -> None:
    # Stored modules and cached summaries are found by it.
    assert DatasetSpec().canonical_json() == (
        '{"channels":null,"classes":null,"image_size":null,"name":"digits","path":null,'
        '"split_seed":0,"test_fraction":0.2,"validation_fraction":0.1}'
    )


def test_groups_keep_their_order_through_canonical_json() -> None:
    groups = {"vehicle": ("truck", "ship"), "animal": ("dog",)}
    spec = DatasetSpec(groups=groups)
    for again in (
        DatasetSpec.model_validate_json(spec.canonical_json()),
        DatasetSpec.model_validate(spec.model_dump()),
        NetworkSpec.model_validate_json(
            NetworkSpec(name="n", dataset=spec).canonical_json()
        ).dataset,
    ):
        assert list((again.groups or {}).items()) == list(groups.items())
    turned = DatasetSpec(groups=dict(reversed(groups.items())))
    assert turned.digest() != spec.digest()


def test_a_group_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="named more than once"):
        DatasetSpec.model_validate({"groups": [["x", ["a"]], ["y", ["b"]], ["x", ["c"]]]})


def test_the_schema_knows_both_forms_of_groups() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="a bare GPU machine has none")
    schema = DatasetSpec.model_json_schema()
    for groups in ({"x": ["a"], "y": ["b"]}, [["x", ["a"]], ["y", ["b"]]]):
        jsonschema.validate({"groups": groups}, schema)
        DatasetSpec.model_validate({"groups": groups})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"groups": ["a", "b"]}, schema)


def test_an_output_module_has_no_views() -> None:
    with pytest.raises(ValidationError, match="views out of its recipe"):
        OutputSpec(recipe=Recipe(flip=True, views=2))
    with pytest.raises(ValidationError, match="leave views out"):
        OutputSpec.model_validate({"recipe": {"views": 2}})


def test_classes_and_groups_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="'classes' or 'groups', not both"):
        DatasetSpec(classes=("a", "b"), groups={"x": ("a",), "y": ("b",)})
    with pytest.raises(ValidationError, match="valid dictionary"):
        DatasetSpec.model_validate({"groups": ["a", "b"]})


def test_milestones_go_with_multistep() -> None:
    with pytest.raises(ValidationError, match="milestones"):
        Recipe(schedule="multistep")
    with pytest.raises(ValidationError, match="milestones"):
        Recipe(milestones=(3,))


def test_a_module_is_hidden_or_output_and_not_both() -> None:
    for change in ({"kind": "output"}, {"hidden": None}, {"blocks": ()}, {"classes": ("a",)}):
        with pytest.raises(ValidationError):
            parse_module_spec(json.dumps({**SPEC.model_dump(mode="json"), **change}))


def test_a_changed_spec_is_validated() -> None:
    assert SPEC.changed(seed=7).seed == 7
    assert SPEC.seed == 0
    for fields in ({"seed": "seven"}, {"blocks": ()}, {"no_such_field": 1}):
        with pytest.raises(ValidationError):
            SPEC.changed(**fields)


def test_the_preprocessing_s_id_is_its_content() -> None:
    one = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.1,), std=(0.2,))
    other = one.changed(mean=(0.11,))
    assert one.id != other.id
    assert one.id == f"preprocessing-{one.digest()}"


def test_augmenting_is_cropping_or_flipping() -> None:
    assert not Recipe().augments
    assert Recipe(flip=True).augments
    assert Recipe(crop_padding=2).augments


def test_lookup_lists_what_there_is() -> None:
    assert lookup({"a": 1}, "a", "thing") == 1
    with pytest.raises(UnknownNameError, match="Unknown thing 'c': use one of a, b") as caught:
        lookup({"a": 1, "b": 2}, "c", "thing")
    assert (caught.value.kind, caught.value.name, caught.value.allowed) == (
        "thing",
        "c",
        ("a", "b"),
    )


def test_import_paths() -> None:
    assert is_import_path("a.b:c")
    assert not is_import_path("resnet18")
    assert import_object("modkernel.spec:HiddenSpec", "backbone") is HiddenSpec
    for path in ("no.such.module:x", "modkernel.spec:Nothing", ":x"):
        with pytest.raises(SpecError, match=r"package\.module:attribute"):
            import_object(path, "backbone")


def test_facts_without_a_label_file_have_the_digest_that_they_had_before_there_were_any() -> None:
    facts = DatasetFacts(name="made", fingerprint="f", classes=("a", "b"))
    assert set(json.loads(facts.canonical_json())) == {
        *("name", "fingerprint", "classes", "pairs_fingerprint"),
    }
    labelled = facts.changed(labels_fingerprint="0" * 64)
    assert labelled.digest() != facts.digest()
    assert DatasetFacts.model_validate_json(labelled.canonical_json(), strict=True) == labelled


def test_what_a_list_of_pairs_has_shown_of_a_data_set() -> None:
    facts = DatasetFacts(name="made", fingerprint="f", classes=("a", "b"))
    assert not facts.saw_validation("made", "f")
    on_pairs = facts.changed(pairs_fingerprint="0" * 64)
    assert on_pairs.saw_validation("other", "f")
    assert on_pairs.saw_validation("made", "of a choice of its classes")
    assert not on_pairs.saw_validation("other", "e")
