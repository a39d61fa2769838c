"""Modules found by what people look them up by, against the same question asked in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from modkernel.errors import NotFoundError
from modkernel.registry import Catalogue, ModuleQuery, ModuleRecord, Registry, Settings
from modkernel.registry.sql import find
from modkernel.registry.sql.tables import ModuleRow
from tests.registry.conftest import seldom_postgres
from tests.registry.helpers.examples import EVALUATION, Examples, store_one

FACTS: dict[str, Callable[[ModuleRecord], object]] = {
    "name": lambda module: module.name,
    "kind": lambda module: module.kind,
    "upstream": lambda module: module.spec.interface.stands_on[0],
    "takes": lambda module: module.spec.interface.takes,
    "gives": lambda module: module.spec.interface.gives,
    "kernel": lambda module: module.spec.interface.kernel.name,
    "dataset": lambda module: module.spec.dataset.name,
    "fingerprint": lambda module: module.spec.dataset.fingerprint,
}
HIDDEN: dict[str, Callable[[ModuleRecord], object]] = {
    "backbone": lambda module: module.spec.backbone.name,
    "block": lambda module: module.spec.blocks[0],
    "objective": lambda module: module.spec.hidden.objective.name,
}


pytestmark = [pytest.mark.home("chain"), seldom_postgres]


@pytest.fixture
def registry(any_settings: Settings) -> Iterator[Registry]:
    with Registry.open(any_settings) as opened:
        yield opened


def test_each_question_is_answered_as_python_would(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    stored = [*records]
    stored += [store_one(registry, examples.first(seed), f"other_{seed}") for seed in (1, 2)]
    found = Catalogue.open(registry.settings)
    assert found.modules(ModuleQuery()) == tuple(stored)
    for field, fact in FACTS.items():
        for module in stored:
            expected = tuple(one for one in stored if fact(one) == fact(module))
            query = ModuleQuery.model_validate({field: fact(module)})
            assert found.modules(query) == expected, field
            assert found.count(query) == len(expected)
    for field, fact in HIDDEN.items():
        for module in (one for one in stored if one.kind == "hidden"):
            asked = ModuleQuery.model_validate({field: fact(module)})
            expected = tuple(
                one for one in stored if one.kind == "hidden" and fact(one) == fact(module)
            )
            assert found.modules(asked) == expected, field
    assert found.modules(ModuleQuery(name="other*")) == tuple(stored[3:])
    assert found.modules(ModuleQuery(name="other_?")) == tuple(stored[3:])
    assert found.modules(ModuleQuery(name="other%")) == ()
    classes = stored[0].spec.dataset.classes
    assert found.modules(ModuleQuery(classes=classes)) == tuple(stored)
    assert found.modules(ModuleQuery(classes=(classes[0], "no such class"))) == ()
    made = stored[3].created_at
    assert found.modules(ModuleQuery(since=made)) == tuple(stored[3:])
    assert found.modules(ModuleQuery(before=made)) == tuple(stored[:3])
    assert found.modules(ModuleQuery(since=made + timedelta(days=1))) == ()
    found.database.close()


@pytest.mark.home("empty")
@pytest.mark.parametrize("few", [1, 1000])
def test_pages_are_all_that_is_found_once(
    registry: Registry, examples: Examples, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "FEW", few)
    stored = [
        store_one(registry, examples.first(seed), f"net-{seed % 2}.hidden-1") for seed in range(5)
    ]
    with registry.backends.database.writing() as session:
        for place, one in enumerate(stored):
            session.get_one(ModuleRow, one.id).accuracy = place / 10
    found = Catalogue.open(registry.settings)
    even, good = {"name": stored[0].name}, {"accuracy": 0.1}
    for asked, expected in (
        ({}, stored),
        ({"kind": "hidden"}, stored),
        (even, stored[::2]),
        ({"name": "net-?.*"}, stored),
        (good, stored[1:]),
        (good | {"kind": "hidden"}, stored[1:]),
        (good | {"name": "*-0.*"}, stored[2::2]),
        (good | even | {"dataset": stored[0].spec.dataset.name}, stored[2::2]),
        (good | {"accuracy": 0.5}, []),
    ):
        query = ModuleQuery.model_validate(asked)
        pages: list[ModuleRecord] = []
        page = found.modules(query, newest=2)
        while page:
            pages[:0] = page
            page = found.modules(query, newest=2, older_than=page[0])
        assert pages == expected, asked
        assert found.count(query, most=3) == min(3, len(expected))
    found.database.close()


@pytest.mark.home("empty")
def test_the_rarer_of_two_frequent_traits_is_read(
    registry: Registry, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have more modules than are counted: who reads all of the other's waits long."""
    for seed in range(5):
        store_one(registry, examples.first(seed), f"net-{seed % 2}.hidden-1")
    every, second = ("kind", "hidden"), ("name", "net-0.hidden-1")
    with registry.backends.database.reading() as session:
        for few in (2, 3, 1000):
            monkeypatch.setattr(find, "FEW", few)
            assert find._rarest(session, [every, second], None) == (second, False)
            assert find._rarest(session, [every, second], 0.5) == (None, True)
            assert find._rarest(session, [every, ("class", "none")], None)[0] == ("class", "none")


def test_accuracy_is_of_the_best_output_module_on_it(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    first, second, output = records
    found = Catalogue.open(registry.settings)
    known = {second.id: EVALUATION.accuracy, output.id: EVALUATION.accuracy}
    assert found.accuracies((first, second, output)) == known
    assert found.modules(ModuleQuery(accuracy=0.75)) == (second, output)
    assert found.modules(ModuleQuery(accuracy=0.76)) == ()
    found.database.close()


@pytest.mark.home("network")
def test_references_are_those_of_the_registry(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    first, second, output = records
    network = registry.networks.resolve("net")
    registry.promotions.promote(first.name, "best", 1)
    found = Catalogue.open(registry.settings)
    for reference in (first.id, first.id[:8], first.name, f"{first.name}/1", f"{first.name}@best"):
        assert found.module(reference) == first == registry.modules.resolve(reference)
    for reference in ("no", "net.hidden-1/7", "net.hidden-1/x", f"{first.name}@worst"):
        with pytest.raises(NotFoundError) as expected:
            registry.modules.resolve(reference)
        with pytest.raises(NotFoundError) as caught:
            found.module(reference)
        assert str(caught.value) == str(expected.value)
    assert found.chain(output) == (first, second, output)
    assert found.standing_on(first) == (second, output)
    assert found.standing_on(output) == ()
    assert found.networks_with(second) == (network,) == found.networks()
    with pytest.raises(NotFoundError, match="Did you mean 'net'"):
        found.network("nett")
    found.database.close()
