from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modkernel.errors import AmbiguousError, InterfaceError, NotFoundError
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.sql.tables import NetworkModuleRow, NetworkRow
from modkernel.spec import NetworkSpec
from tests.registry.conftest import seldom_postgres
from tests.registry.helpers.examples import EVALUATION, Examples, store_one

pytestmark = pytest.mark.home("chain")


@pytest.fixture
def any_registry(any_settings: Settings) -> Any:
    with Registry.open(any_settings) as opened:
        yield opened


@seldom_postgres
def test_a_composition_pins_its_modules(any_registry: Registry) -> None:
    records = any_registry.modules.find()
    spec = NetworkSpec(name="net")
    run_id = any_registry.runs.start_network("net", "digits", spec)
    ids = [record.id for record in records]
    made = any_registry.networks.add("net", ids, EVALUATION, run_id, spec)
    assert made.module_ids == tuple(ids)
    assert (made.run_id, made.evaluation) == (run_id, EVALUATION)
    assert made.spec == spec.model_dump(mode="json")
    assert any_registry.networks.members(made) == records
    with any_registry.backends.database.reading() as session:
        row = session.get_one(NetworkModuleRow, (made.id, 2))
        assert row.weights_sha256 == records[1].weights_sha256
        assert row.spec_sha256 == records[1].spec_sha256
    any_registry.promotions.promote("net.hidden-1", "champion", 1)
    assert any_registry.networks.resolve("net") == made


def test_flows_that_end_at_once_record_one_network(any_registry: Registry) -> None:
    ids = [record.id for record in any_registry.modules.find()]
    any_registry.networks.find()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: any_registry.networks.add("net", ids, EVALUATION), range(8)))
    assert made == [made[0]] * 8
    assert any_registry.networks.find() == (made[0],)


def test_the_same_composition_is_kept(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    ids = [record.id for record in records]
    made = registry.networks.add("net", ids, EVALUATION)
    assert registry.networks.add("net", ids, EVALUATION) == made
    assert len(registry.networks.evaluations(made)) == 1
    better = EVALUATION.changed(accuracy=0.8)
    assert registry.networks.add("net", ids, better).evaluation == better
    assert [e.evaluation.accuracy for e in registry.networks.evaluations(made)] == [0.75, 0.8]
    assert registry.networks.evaluations(made)[0].dataset == "digits"
    other = registry.networks.add("other", ids)
    assert other.id != made.id
    assert [network.name for network in registry.networks.find()] == ["net", "other"]
    assert registry.networks.find("other") == (other,)


@seldom_postgres
def test_a_name_means_the_network_that_was_made_last(any_registry: Registry) -> None:
    first, second, _ = any_registry.modules.find()
    short = any_registry.networks.add("net", [first.id])
    long = any_registry.networks.add("net", [first.id, second.id])
    assert any_registry.networks.resolve("net") == long
    assert any_registry.networks.add("net", [first.id]) == short
    assert any_registry.networks.resolve("net") == short
    assert any_registry.networks.find("net") == (short, long), "history stays"
    any_registry.networks.add("net", [first.id, second.id])
    assert any_registry.networks.resolve("net") == long


def test_references_to_networks(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    made = registry.networks.add("net", [records[0].id])
    assert registry.networks.resolve(made.id) == registry.networks.resolve(made.id[:6]) == made
    with pytest.raises(NotFoundError, match=r"No network answers to 'nothing'"):
        registry.networks.resolve("nothing")
    with registry.backends.database.writing() as session:
        session.add(NetworkRow(id=made.id[:8] + "f" * 56, name="twin"))
    with pytest.raises(AmbiguousError, match=r"several networks .*write more digits"):
        registry.networks.resolve(made.id[:8])


def test_modules_that_do_not_stand_on_one_another(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    second = records[1]
    other = store_one(registry, examples.first(seed=1))
    with pytest.raises(InterfaceError, match=r"Position 2 of 2 .*was trained on upstream"):
        registry.networks.add("net", [other.id, second.id])
    with pytest.raises(NotFoundError, match=r"no module ffffffffffff"):
        registry.networks.add("net", ["f" * 64])
    assert registry.networks.find() == ()
