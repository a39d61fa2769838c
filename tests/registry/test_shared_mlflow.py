"""Two registries, each with a database of its own, that keep their runs in one MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from modkernel.errors import NotFoundError, StoreError
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.records import Identity
from modkernel.registry.sql.tables import IdentityRow
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
    network = colleague.networks.load(colleague.networks.resolve("net"))
    assert [stored.id for stored in network.stored] == [record.id for record in others]


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


def older(registry: Registry) -> None:
    """Make it one that had modules before there was the tag, which nothing of it has."""
    client = registry.backends.client
    with registry.backends.database.writing() as session:
        session.execute(update(IdentityRow).values(has_untagged=True))
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_tag(run.info.run_id, Identity.tag)
        for model in client.search_logged_models([experiment.experiment_id]):
            client.delete_logged_model_tag(model.model_id, Identity.tag)
    for version in client.search_model_versions():
        client.delete_model_version_tag(version.name, version.version, Identity.tag)


def test_what_an_older_registry_made_is_not_that_of_a_new_one(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    chain = examples.chain()
    own = store_chain(registry, chain)
    registry.networks.add("net", [record.id for record in own], EVALUATION)
    registry.promotions.promote("net", "champion", 1)
    spec = examples.first(7).spec
    running = registry.runs.start_module("net.hidden-1", spec)
    older(registry)
    with Registry.open(registry.settings) as registry:
        claim = registry.claim(spec.digest(), "here")
        assert claim is not None
        with claim:
            others = store_chain(colleague, chain)
            colleague.networks.add("net", [record.id for record in others], EVALUATION)
            assert colleague.runs.start_module("net.hidden-1", spec) != running
            assert [action.kind for action in colleague.repair()] == ["closed"]
            assert status(registry, running) == "RUNNING"
            assert registry.verify() == ()
        assert registry.backends.models.aliases("net") == {"champion": 1}
        colleague.delete_network(colleague.networks.resolve("net"))
        for record in reversed(others):
            colleague.delete_module(record)
        for found in colleague.garbage():
            colleague.collect(found)
        assert registry.verify() == ()
        assert registry.runs.start_module("net.hidden-1", spec) == running, "it is its own"


def test_an_alias_that_means_anothers_version_stays_when_an_equal_module_goes(
    registry: Registry, colleague: Registry, examples: Examples
) -> None:
    stored = examples.first()
    own, theirs = store_one(registry, stored), store_one(colleague, stored)
    colleague.promotions.promote("net.hidden-1", "champion", 2)
    assert registry.modules.resolve("net.hidden-1@champion") == own
    (seen,) = registry.promotions.sync()
    assert (seen.version, seen.module_id) == (2, None)
    with pytest.raises(NotFoundError, match="no version 2 that this registry stored"):
        registry.promotions.promote("net.hidden-1", "stable", 2)
    registry.delete_module(own)
    assert colleague.modules.resolve("net.hidden-1@champion") == theirs
    colleague.promotions.demote("net.hidden-1", "champion")
    again = store_one(registry, stored)
    assert registry.backends.models.aliases("net.hidden-1") == {}
    assert registry.verify() == ()
    assert again.version == 3


def test_what_a_registry_knows_for_its_own_is_its_own_whatever_its_id_is(
    registry: Registry, examples: Examples
) -> None:
    """As of a database that was dumped before the tag, and upgraded a second time."""
    record = store_one(registry, examples.first())
    with registry.backends.database.writing() as session:
        session.execute(update(IdentityRow).values(id="f" * 32))
    with Registry.open(registry.settings) as other:
        assert other.backends.database.identity != registry.backends.database.identity
        assert other.verify() == ()
        other.delete_module(record)
        assert registry.backends.client.search_model_versions() == []


def test_a_database_without_identity_is_refused(registry: Registry) -> None:
    with registry.backends.database.writing() as session:
        session.execute(delete(IdentityRow))
    with pytest.raises(StoreError, match="No row was found"):
        Registry.open(registry.settings)


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
