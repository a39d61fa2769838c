"""What past tasks tell of a new module, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modkernel.reuse.new_module import FEWEST, Evidence, Forecast, forecast, verdict


def past(
    accuracies: list[float], classes: int = 2, examples: int = 1000, **changes: str
) -> list[Evidence]:
    one = Evidence("mlp", "digits", classes, examples, 0.0, 10.0)
    return [replace(one, accuracy=each, **changes) for each in accuracies]


def test_the_interval_holds_the_next_task_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    inside = []
    for count in (FEWEST, 20):
        for _ in range(400):
            *seen, new = draw.beta(8, 2, count + 1).tolist()
            found = forecast(past(seen), "digits", 2, 1000)
            assert isinstance(found, Forecast)
            inside.append((found.interval[0] <= new <= found.interval[1], found.probability))
        hits, said = np.mean(inside[-400:], axis=0)
        assert hits == pytest.approx(said, abs=0.06)
    assert [round(said, 3) for _, said in (inside[0], inside[-1])] == [0.667, 0.905]


def test_too_few_say_nothing() -> None:
    other = past([0.9] * 3, recipe="another")
    assert forecast([], "digits", 2, 1000) == 0
    assert forecast(past([0.8] * 4) + other, "digits", 2, 1000) == 4
    assert forecast(past([0.8] * 9, classes=5), "digits", 2, 1000) == 0, "of too many classes"
    assert forecast(past([0.8] * 9, examples=100), "digits", 2, 1000) == 0, "too small"
    assert verdict(4, 0.9) == "unsure"


def test_these_data_come_first_and_the_recipe_that_most_are_of() -> None:
    here = past([0.70, 0.71, 0.72, 0.73, 0.74])
    there = past([0.9] * 30, dataset="other")
    found = forecast(here + there, "digits", 2, 1000)
    assert isinstance(found, Forecast)
    assert (found.same_data, found.tasks, found.accuracy) == (True, 5, pytest.approx(0.72))
    assert found.interval == pytest.approx((0.70, 0.74))
    found = forecast(here[1:] + there, "digits", 2, 1000)
    assert isinstance(found, Forecast)
    assert (found.same_data, found.tasks) == (False, 34)
    more = past([0.6] * 6, recipe="resnet")
    found = forecast(here + more, "digits", 2, 1000)
    assert isinstance(found, Forecast)
    assert (found.recipe, found.tasks) == ("resnet", 6)


def test_classes_and_examples_are_allowed_for() -> None:
    """Half way from a guess to all right stays half way; twice the examples take twice as long."""
    found = forecast(past([0.75] * 5), "digits", 4, 2000)
    assert isinstance(found, Forecast)
    assert found.accuracy == pytest.approx(0.25 + 0.5 * 0.75)
    assert (found.seconds, found.seconds_interval) == (20, (20, 20))


def test_the_verdict_is_that_of_the_interval() -> None:
    found = forecast(past([0.70, 0.71, 0.72, 0.73, 0.74]), "digits", 2, 1000)
    said = [verdict(found, reached) for reached in (0.69, 0.72, 0.75, None)]
    assert said == ["train", "unsure", "reuse", "unsure"]
