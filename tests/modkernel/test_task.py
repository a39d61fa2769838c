"""Tasks: what may be asked for, how it is typed, and which data set it makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modkernel.errors import ClassError
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import DatasetSpec
from modkernel.spec.shorthand import composed

CLASSES = ("cat", "dog", "deer", "truck", "ship", "T-shirt/top", "my class")
NAME = (
    st.text(st.characters(blacklist_characters="=+,", min_codepoint=32), min_size=1)
    .map(composed)
    .filter(lambda text: text == text.strip())
)


def test_classes_stand_for_themselves() -> None:
    task = Task.of_classes(["dog", "cat"])
    assert task == parse_task(" dog ,cat")
    assert task.name == "dog-cat"
    assert task.classes == ("dog", "cat")
    assert task.assign(CLASSES).tolist() == [1, 0, -1, -1, -1, -1, -1]


def test_sides_of_several_classes() -> None:
    task = parse_task("animal=cat+dog+deer, vehicle = truck + ship")
    assert task.groups == {"animal": ("cat", "dog", "deer"), "vehicle": ("truck", "ship")}
    assert task.name == "animal-vehicle"
    assert task.assign(CLASSES).tolist() == [0, 0, 0, 1, 1, -1, -1]


def test_a_class_may_stand_beside_a_side() -> None:
    assert parse_task("cat, vehicle=truck+ship").groups == {
        "cat": ("cat",),
        "vehicle": ("truck", "ship"),
    }


def test_names_hold_spaces_and_slashes() -> None:
    assert parse_task("T-shirt/top, my class").assign(CLASSES).tolist() == [-1] * 5 + [0, 1]


def test_a_side_without_a_name_is_a_class_whatever_signs_it_holds() -> None:
    assert parse_task("C++, C").groups == {"C++": ("C++",), "C": ("C",)}
    assert parse_task("sum=a=b+c, C++").groups == {"sum": ("a=b", "c"), "C++": ("C++",)}
    with pytest.raises(ClassError, match=r"'cat\+dog', .* write 'NAME=cat\+dog'"):
        parse_task("cat+dog, truck").assign(CLASSES)


@given(st.lists(NAME, min_size=2, max_size=6, unique=True), st.data())
def test_what_is_typed_is_what_is_meant(names, data) -> None:
    cut = data.draw(st.integers(1, len(names) - 1))
    groups = {"one": tuple(names[:cut]), "two": tuple(names[cut:])}
    typed = ", ".join(f"{side} = {' + '.join(members)}" for side, members in groups.items())
    task = parse_task(typed)
    assert task.groups == groups
    assert task.assign(names).tolist() == [0] * cut + [1] * (len(names) - cut)


def test_order_of_sides_survives_json() -> None:
    task = parse_task("z=cat, a=dog")
    assert list(Task.model_validate_json(task.canonical_json()).groups) == ["z", "a"]
    assert task.digest() != parse_task("a=dog, z=cat").digest()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cat", "at least two sides"),
        ("all=cat+dog", "at least two sides"),
        ("", "Cannot read ''"),
        ("cat,,dog", "Cannot read ''"),
        ("cat, =dog", "Cannot read '=dog'"),
        ("a=, dog", "Cannot read 'a='"),
        ("a=cat+, dog", "Cannot read 'a=cat+'"),
        ("a=cat, a=dog", "two sides named 'a'"),
        ("a=cat+dog, b=dog+ship", "'dog' is named more than once"),
        ("a=cat+cat, b=dog", "'cat' is named more than once"),
    ],
)
def test_what_cannot_be_a_task(text: str, says: str) -> None:
    with pytest.raises(ClassError) as caught:
        parse_task(text)
    assert says in str(caught.value)


def test_one_class_and_repeated_classes() -> None:
    with pytest.raises(ClassError, match="at least two sides"):
        Task.of_classes(["cat"])
    with pytest.raises(ClassError, match="'cat' is named more than once"):
        Task.of_classes(["cat", "dog", "cat"])
    with pytest.raises(ClassError, match="Side 'b' of a task has no classes"):
        Task(groups={"a": ("cat",), "b": ()})


def test_unknown_classes_are_named_with_those_that_exist() -> None:
    with pytest.raises(
        ClassError, match=r"'cow', which the data set does not have: choose from cat, dog"
    ):
        parse_task("cow, dog").assign(CLASSES)


def test_the_data_set_of_a_task() -> None:
    base = DatasetSpec(name="cifar10", image_size=16)
    plain = parse_task("dog, cat").dataset(base)
    assert plain == DatasetSpec(name="cifar10", image_size=16, classes=("dog", "cat"))
    grouped = parse_task("animal=cat+dog, ship").dataset(base)
    assert grouped.classes is None
    assert grouped.groups == {"animal": ("cat", "dog"), "ship": ("ship",)}
    renamed = parse_task("a=cat, b=dog").dataset(base)
    assert renamed.groups == {"a": ("cat",), "b": ("dog",)}


def test_the_data_set_of_a_task_on_a_choice() -> None:
    chosen = DatasetSpec(name="cifar10", classes=("cat", "dog", "ship"))
    assert parse_task("ship, cat").dataset(chosen).classes == ("ship", "cat")
    with pytest.raises(ClassError, match="'truck'"):
        parse_task("truck, cat").dataset(chosen)
    joined = DatasetSpec(name="cifar10", groups={"pet": ("cat", "dog"), "wild": ("deer",)})
    assert parse_task("wild, pet").dataset(joined).groups == {
        "wild": ("deer",),
        "pet": ("cat", "dog"),
    }
    with pytest.raises(ClassError, match="'cat'"):
        parse_task("cat, wild").dataset(joined)
