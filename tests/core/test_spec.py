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
from modkernel.names import import_object, is_import_path, lookup
from modkernel.spec import HiddenSpec, ModuleSpec, NetworkSpec, Preprocessing, Recipe
from tests.core.stored_examples import hidden_spec

SPEC = hidden_spec(("stem",), (1, 8, 8), (2, 8, 8), "preprocessing-x")


def test_the_digest_is_that_of_the_canonical_json() -> None:
    text = SPEC.canonical_json()
    assert SPEC.digest() == hashlib.sha256(text.encode()).hexdigest()
    assert ModuleSpec.model_validate_json(text) == SPEC
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
    other = ModuleSpec.model_validate({**SPEC.model_dump(mode="json"), **change})
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


def test_milestones_go_with_multistep() -> None:
    with pytest.raises(ValidationError, match="milestones"):
        Recipe(schedule="multistep")
    with pytest.raises(ValidationError, match="milestones"):
        Recipe(milestones=(3,))


def test_a_module_is_hidden_or_output_and_not_both() -> None:
    for change in ({"kind": "output"}, {"hidden": None}, {"blocks": ()}, {"classes": ("a",)}):
        with pytest.raises(ValidationError):
            ModuleSpec.model_validate({**SPEC.model_dump(), **change})


def test_the_preprocessing_s_id_is_its_content() -> None:
    one = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.1,), std=(0.2,))
    other = one.model_copy(update={"mean": (0.11,)})
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
