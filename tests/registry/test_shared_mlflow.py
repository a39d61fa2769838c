"""Two registries, each with a database of its own, that keep their runs in one MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modkernel.errors import NotFoundError
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.tracking.fields import REGISTRY_TAG
from tests.registry.helpers.examples import EVALUATION, Examples, store_chain, store_one


@pytest.fixture
def colleague(registry: Registry, tmp_path: Path) -> Iterator[Registry]:
    """The registry of somebody else at the same MLflow."""
    uri = registry.settings.mlflow_uri
    settings = Settings(home=tmp_path / "colleague", mlflow_uri=uri, lease_seconds=1)
    with Registry.open(settings) as opened:
        yield opened


def status(registry: Registry, run_id: str) -> str:
    return str(registry.backends.client.get_run(run_id).info.status)


def garbage(registry: Registry) -> set[str]:
    return {found.id for found in registry.garbage()}


def versions(records: tuple[ModuleRecord, ...]) -> list[int | None]:
    return [record.version for record in records]


def test_what_both_have_is_there_for_each_and_one_deletes_its_own(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    chain = examples.chain()
    both = registry, colleague
    own, others = (store_chain(one, chain) for one in both)
    assert [one.id for one in own] == [one.id for one in others]
    assert (versions(own), versions(others)) == ([1, 1, 1], [2, 2, 2])
    for one, records in zip(both, (own, others), strict=True):
        one.networks.add("net", [record.id for record in records], EVALUATION)
    assert [(one.verify(), one.repair()) for one in both] == [((), ())] * 2

    registry.delete_network(registry.networks.resolve("net"))
    for record in reversed(own):
        registry.delete_module(record)
    for found in registry.garbage():
        registry.collect(found)
    assert (colleague.verify(), colleague.repair(), registry.verify()) == ((), (), ())
    for record in others:
        assert colleague.modules.fetch(record).id == record.id
    assert colleague.networks.load(colleague.networks.resolve("net")).predict is not None


def test_a_run_that_another_registry_works_in_is_neither_ended_nor_gone_on_with(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    spec = examples.first().spec
    claim = registry.claim(spec.digest(), "here")
    assert claim is not None
    with claim:
        run_id = registry.runs.start_module("net.hidden-1", spec)
        assert colleague.repair() == ()
        another = colleague.runs.start_module("net.hidden-1", spec)
        assert another != run_id
        assert status(registry, run_id) == "RUNNING"
    # Nobody holds the claim any more: each ends its own.
    assert [action.kind for action in colleague.repair()] == ["closed"]
    assert (status(registry, run_id), status(registry, another)) == ("RUNNING", "KILLED")
    assert registry.runs.start_module("net.hidden-1", spec) == run_id, "it goes on with its own"


def test_a_run_that_a_person_deleted_is_removed_by_its_own_registry_alone(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    record = store_one(registry, examples.first())
    assert record.run_id is not None
    stray = registry.runs.start_network("gone", "digits")
    for run_id in (record.run_id, stray):
        registry.backends.client.delete_run(run_id)
    assert garbage(colleague) == set()
    assert garbage(registry) == {stray}
    assert [action.kind for action in registry.repair()] == ["restored"]


def test_what_an_older_program_made_is_everybodys(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    run_id = registry.runs.start_module("net.hidden-1", examples.first().spec)
    registry.runs.remove_tag(run_id, REGISTRY_TAG)
    assert colleague.runs.start_module("net.hidden-1", examples.first().spec) == run_id
    tags = registry.backends.client.get_run(run_id).data.tags
    assert tags[REGISTRY_TAG] == colleague.backends.database.identity
    assert registry.backends.database.identity != colleague.backends.database.identity


def test_what_only_another_registry_has_is_brought_by_a_bundle(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    own = store_one(registry, examples.first())
    theirs = store_chain(colleague, (examples.first(1), examples.second(examples.first(1))))
    colleague.networks.add("net", [record.id for record in theirs], None)
    colleague.promotions.promote("net.hidden-1", "champion", 2)
    colleague.promotions.promote("net", "champion", 1)
    for reference in ("net.hidden-1@champion", "net.hidden-1/2"):
        with pytest.raises(NotFoundError, match=r"of another registry.*bundle export"):
            registry.modules.resolve(reference)
    store = registry.networks.add("mine", [own.id], None)
    assert registry.networks.resolve("mine/1") == store
    with pytest.raises(NotFoundError, match=r"of another registry.*bundle export"):
        registry.networks.resolve("net@champion")
