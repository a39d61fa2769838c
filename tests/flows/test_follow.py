"""What a network that follows an alias is made of, again and again; which moves are told when."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from modkernel.flows import compose_network as composing
from modkernel.flows.compose_network import as_filled_in, compose_network
from modkernel.flows.deployments.forms.modules import CompositionForm
from modkernel.flows.plans.steps import Plan
from modkernel.flows.servers import followers
from modkernel.flows.servers.followers import tell_moves
from modkernel.registry import Registry
from modkernel.spec import DatasetSpec, OutputSpec, Recipe
from tests.flows.helpers.specs import tiny
from tests.flows.helpers.trained import store_modules

HIDDEN = "net.hidden-1"


@pytest.mark.parametrize(
    ("dataset", "output"),
    [
        (None, OutputSpec()),
        (DatasetSpec(), OutputSpec(method="ridge", labels_per_class=1, draws=3)),
        (
            DatasetSpec(name="image_folder", path="/data/p", classes=("a", "b"), image_size=(8, 6)),
            OutputSpec(recipe=Recipe(epochs=3, optimizer="adam"), minimum_steps=7),
        ),
    ],
)
def test_what_a_follower_is_made_of_again_is_what_it_was_made_of(
    dataset: DatasetSpec | None, output: OutputSpec
) -> None:
    values = as_filled_in("net", "a@b", dataset, output, 0, None)
    again = CompositionForm.model_validate(json.loads(json.dumps(values))).parameters()
    assert again == {
        "name": "net",
        "hidden": ("a@b",),
        "weights": None,
        "dataset": dataset,
        "output": output,
        "seed": 0,
        "labels": None,
        "follow": False,
    }


@pytest.mark.parametrize("moved", [2, None])
def test_an_alias_that_moves_before_the_automation_is_there_is_followed_at_once(
    with_net: Registry, monkeypatch: pytest.MonkeyPatch, moved: int | None
) -> None:
    registry = with_net
    store_modules(registry, tiny("net", (1,), 2).changed(output=None))
    registry.promotions.promote(HIDDEN, "best", 1)
    done: list[Any] = []

    def trained(_: object, __: str, plan: Plan, *___: object) -> Any:
        if not done and moved is not None:
            registry.promotions.promote(HIDDEN, "best", moved)
        elif not done:
            registry.promotions.demote(HIDDEN, "best")
        done.append(plan.kept[-1].version)
        return SimpleNamespace(made_of=done[-1])

    monkeypatch.setattr(composing, "check_can_follow", lambda *_: None)
    monkeypatch.setattr(composing, "follow_alias", lambda *_: done.append("follows"))
    monkeypatch.setattr(composing, "train_network_of", trained)
    result: Any = compose_network("follower", (f"{HIDDEN}@best",), follow=True)
    # One that was removed is composed again when it is set again: that is told.
    assert done == ([1, "follows"] if moved is None else [1, "follows", moved])
    assert result.made_of == (moved or 1)


def test_a_move_is_told_once_the_forms_offer_the_alias(
    with_net: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = with_net
    client = MagicMock()
    monkeypatch.setattr(followers, "get_client", client)
    before = registry.names().modules
    registry.promotions.promote(HIDDEN, "best", 1)
    assert tell_moves(registry, before) == ()
    client.assert_not_called()
    (told,) = tell_moves(registry, registry.names().modules)
    assert (told.alias, told.version) == ("best", 1)
    # What no form offers is not waited for: the alias of a network, and one that was removed.
    version = registry.networks.resolve("net").version
    assert version is not None
    registry.promotions.promote("net", "shown", version)
    registry.promotions.demote(HIDDEN, "best")
    assert [one.version for one in tell_moves(registry, before)] == [version, None]
    assert client.call_count == 2
