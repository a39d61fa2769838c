"""Aliases: moved by command or by hand, who did it, back again, and those that few may move."""

from __future__ import annotations

import getpass
import os
import pwd
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from modkernel.errors import NotAllowedError, NotFoundError, StoreError
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.records import PromotionRecord
from modkernel.registry.tracking import models
from tests.registry.conftest import free_port, seldom_postgres
from tests.registry.helpers.examples import Examples, store_one
from tests.registry.helpers.servers import mlflow_server

NAME = "net.hidden-1"
pytestmark = pytest.mark.home("versions")


@pytest.fixture
def registry(any_settings: Settings) -> Iterator[Registry]:
    with Registry.open(any_settings) as opened:
        yield opened


def told(registry: Registry) -> list[tuple[int | None, int | None, str | None, str | None]]:
    return [(one.before, one.version, one.who, one.reason) for one in registry.promotions.history()]


@seldom_postgres
def test_who_moved_what_from_where_and_why(registry: Registry) -> None:
    me, client = getpass.getuser(), registry.backends.client
    registry.promotions.promote(NAME, "best", 1, "first of all")
    client.set_registered_model_alias(NAME, "best", "2")
    registry.promotions.sync()
    moved = registry.promotions.promote(NAME, "best", 3)
    assert (moved.before, moved.version, moved.who) == (2, 3, me)
    registry.promotions.promote(NAME, "best", 3, "again: nothing happens")
    registry.promotions.demote(NAME, "best", "enough")
    assert told(registry) == [
        (None, 1, me, "first of all"),
        (1, 2, None, None),
        (2, 3, me, None),
        (3, None, me, "enough"),
    ]
    assert client.get_registered_model(NAME).aliases == {}
    with pytest.raises(NotFoundError, match="no alias 'best'"):
        registry.promotions.demote(NAME, "best")


@seldom_postgres
def test_what_was_moved_by_hand_meanwhile_is_nobodys(registry: Registry) -> None:
    registry.backends.client.set_registered_model_alias(NAME, "best", "2")
    registry.promotions.promote(NAME, "best", 1)
    assert told(registry) == [(None, 2, None, None), (2, 1, getpass.getuser(), None)]


@seldom_postgres
def test_back_and_further_back(registry: Registry) -> None:
    for version in (1, 2, 3):
        registry.promotions.promote(NAME, "best", version)
    assert registry.promotions.rollback(NAME, "best", "worse").version == 2
    assert registry.promotions.rollback(NAME, "best").version == 1
    with pytest.raises(NotFoundError, match="no other version before version 1"):
        registry.promotions.rollback(NAME, "best")
    assert [one.reason for one in registry.promotions.history()][-2:] == [
        "rolled back: worse",
        "rolled back",
    ]
    # An old version that is promoted again is a move like any other.
    for version in (3, 2, 3, 1, 3):
        registry.promotions.promote(NAME, "best", version)
    assert [registry.promotions.rollback(NAME, "best").version for _ in range(3)] == [1, 3, 2]
    registry.promotions.promote(NAME, "other", 1)
    registry.promotions.promote(NAME, "other", 3)
    registry.promotions.demote(NAME, "best")
    registry.promotions.demote(NAME, "other")
    registry.promotions.promote(NAME, "other", 3)
    registry.delete_module(registry.modules.resolve(f"{NAME}/1"))
    with pytest.raises(NotFoundError, match=r"Version 1 of .* is gone"):
        registry.promotions.rollback(NAME, "other")


@seldom_postgres
def test_a_protected_alias_is_moved_by_those_who_may(registry: Registry) -> None:
    me = getpass.getuser()
    registry.promotions.promote(NAME, "production", 1)
    others = registry.settings.model_copy(
        update={"protected_aliases": ("production:anna", "production:otto")}
    )
    with Registry.open(others) as theirs:
        for move in (
            lambda: theirs.promotions.promote(NAME, "production", 2),
            lambda: theirs.promotions.demote(NAME, "production"),
        ):
            with pytest.raises(NotAllowedError, match=f"{me} may not .* ask one of anna, otto"):
                move()
        assert theirs.promotions.promote(NAME, "staging", 2).version == 2
    mine = registry.settings.model_copy(
        update={"protected_aliases": ("production:anna", f"production:{me}")}
    )
    with Registry.open(mine) as owned:
        assert owned.promotions.promote(NAME, "production", 2).version == 2


def test_a_protected_alias_is_removed_with_its_version_by_those_who_may(
    registry: Registry, records: tuple[ModuleRecord, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    registry.promotions.promote(NAME, "production", 1)
    registry.promotions.promote(NAME, "mine", 2)
    monkeypatch.setenv("LOGNAME", "anna")  # Whoever says so is not believed.
    others = registry.settings.model_copy(update={"protected_aliases": ("production:anna",)})
    first, second, _ = records
    with Registry.open(others) as theirs:
        with pytest.raises(NotAllowedError, match=f"{me} may not .* ask one of anna"):
            theirs.delete_module(first)
        assert theirs.modules.resolve(first.id).state == "READY"
        theirs.delete_module(second)
    assert told(registry)[2:] == [(2, None, me, "deleted with what it meant")]
    assert registry.promotions.sync() == ()


def test_whoever_sees_it_first_the_name_of_who_moved_it_is_kept(registry: Registry) -> None:
    stop = threading.Event()

    def look() -> None:
        with Registry.open(registry.settings) as other:
            while not stop.is_set():
                other.promotions.sync()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for version in (1, 2, 3, 1, 2, 3):
            registry.promotions.promote(NAME, "best", version, f"to {version}")
    finally:
        stop.set()
        looking.join()
    assert told(registry) == [
        (before, version, getpass.getuser(), f"to {version}")
        for before, version in ((None, 1), (1, 2), (2, 3), (3, 1), (1, 2), (2, 3))
    ]


@seldom_postgres
@pytest.mark.home("chain")
def test_networks_have_aliases_too(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    first, second = (
        registry.networks.add("net", [one.id for one in records[:many]]) for many in (2, 3)
    )
    client = registry.backends.client
    registry.promotions.promote("net", "live", 1, "first")
    client.set_registered_model_alias("net", "live", "2")
    (moved,) = registry.promotions.sync()
    assert (moved.version, moved.module_id) == (2, second.id)
    assert registry.networks.resolve("net@live").id == second.id
    assert registry.networks.resolve("net/1").id == first.id
    assert registry.promotions.rollback("net", "live").module_id == first.id
    for wrong in ("net@no", "net/9", "no@live"):
        with pytest.raises(NotFoundError):
            registry.networks.resolve(wrong)


def test_each_move_is_news_to_one_asker_and_again_if_he_fails(registry: Registry) -> None:
    client = registry.backends.client
    for version in ("1", "2"):
        client.set_registered_model_alias(NAME, "best", version)
        registry.promotions.sync()
    with suppress(ZeroDivisionError), registry.promotions.news() as moves:
        with registry.promotions.news() as meanwhile:
            assert meanwhile == ()
        raise ZeroDivisionError
    registry.promotions.demote(NAME, "best")
    given: list[PromotionRecord] = []

    def ask() -> None:
        with Registry.open(registry.settings) as other, other.promotions.news() as moves:
            given.extend(moves)

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert [one.version for one in moves] == [1, 2]
    assert [one.version for one in given] == [1, 2, None]


def test_aliases_behind_a_server_are_looked_up_without_listing_all_models(
    settings: Settings, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*_: Any, **__: Any) -> None:
        raise AssertionError("the server was asked for all that it knows")

    with Registry.open(settings) as registry:
        store_one(registry, examples.first(7), "other")
    with mlflow_server(settings, free_port(), tmp_path / "files") as address:
        served = Settings(home=settings.home, mlflow_uri=address)
        with Registry.open(served) as registry:
            client = registry.backends.client
            client.set_registered_model_alias(NAME, "best", "1")
            client.set_registered_model_alias("other", "best", "1")
            expected = registry.backends.models.all_aliases({NAME, "other"})
            assert len(expected) == 2
        monkeypatch.setattr(MlflowClient, "search_registered_models", listed)
        with Registry.open(served) as registry:
            registry.promotions.sync_named([f"{NAME}/1", "other"])
            assert told(registry) == []
            registry.promotions.sync_named([f"{NAME}@best", "nothing@best"])
            assert [(one.name, one.version) for one in registry.promotions.history()] == [(NAME, 1)]
            registry.promotions.promote(NAME, "best", 2)
            assert registry.promotions.rollback(NAME, "best").version == 1
            assert registry.backends.models.all_aliases({NAME, "other"}) == expected
            monkeypatch.setattr(models, "FEW_NAMES", 1)
            with pytest.raises(AssertionError, match="all that it knows"):
                registry.promotions.sync()
        known = Settings(home=settings.home, mlflow_uri=address, mlflow_store=settings.mlflow_uri)
        with Registry.open(known) as registry:
            assert registry.backends.models.all_aliases({NAME, "other"}) == expected
            (moved,) = registry.promotions.sync()
            assert (moved.name, moved.alias, moved.version) == ("other", "best", 1)
        nowhere = known.model_copy(update={"mlflow_store": "postgresql+psycopg://me:pw@[::1]:1/no"})
        with (
            Registry.open(nowhere) as registry,
            pytest.raises(StoreError, match=r"MLflow at postgresql\+psycopg://me:\*\*\*@") as told_,
        ):
            registry.promotions.sync()
        assert "pw" not in str(told_.value)
