from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from modkernel.errors import StoreError
from modkernel.registry import Settings
from modkernel.registry.sql import claims, engine
from modkernel.registry.sql.engine import Database, open_database
from tests.registry.helpers.processes import CONTEXT, start

KEY = "a" * 64


@pytest.fixture
def database(any_settings: Settings) -> Any:
    opened = open_database(any_settings)
    yield opened
    opened.close()


def test_one_owner_at_a_time(database: Database) -> None:
    mine = claims.take(database, KEY, "me", 30)
    assert mine is not None
    assert claims.take(database, KEY, "you", 30) is None
    assert claims.take(database, "b" * 64, "you", 30) is not None
    mine.release()
    assert claims.take(database, KEY, "you", 30) is not None


def test_the_end_of_the_block_releases(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), claims.wait_for(database, KEY, "me", 30):
        raise ZeroDivisionError
    assert claims.take(database, KEY, "you", 30) is not None


def test_an_expired_lease_is_taken_over_and_its_owner_told(database: Database) -> None:
    old = claims.take(database, KEY, "me", 1)
    assert old is not None
    new = claims.wait_for(database, KEY, "you", 30)
    with pytest.raises(StoreError, match="another took it over"):
        old.renew()
    old.release()
    assert claims.take(database, KEY, "third", 30) is None
    new.renew()


def test_a_renewed_lease_lives(database: Database) -> None:
    mine = claims.take(database, KEY, "me", 1)
    assert mine is not None
    for _ in range(4):
        time.sleep(0.4)
        mine.renew()
        assert claims.take(database, KEY, "you", 1) is None


def test_a_kept_lease_outlives_its_length(database: Database) -> None:
    with claims.wait_for(database, KEY, "me", 1).renewed():
        time.sleep(1.6)
        assert claims.take(database, KEY, "you", 1) is None
    assert claims.take(database, KEY, "you", 1) is not None


def test_a_database_that_is_away_for_a_moment_loses_no_claim(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, calls = claims.Claim.renew, []

    def failing_once(claim: claims.Claim) -> None:
        calls.append(claim)
        if len(calls) == 1:
            raise StoreError("the database is away")
        renew(claim)

    monkeypatch.setattr(claims.Claim, "renew", failing_once)
    lost = threading.Event()
    with claims.wait_for(database, KEY, "me", 1).renewed(lost):
        time.sleep(1.6)
        assert len(calls) > 1
        assert not lost.is_set()
        assert claims.take(database, KEY, "you", 1) is None


def test_a_claim_that_cannot_be_renewed_in_time_is_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: claims.Claim) -> None:
        raise StoreError("the database is away")

    monkeypatch.setattr(claims.Claim, "renew", failing)
    lost = threading.Event()
    with claims.wait_for(database, KEY, "me", 1).renewed(lost):
        assert lost.wait(5)


def jump(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    """Set the database's clock, for whoever asks it from now on."""
    for dialect, now in dict(engine.NOW_SECONDS).items():
        monkeypatch.setitem(engine.NOW_SECONDS, dialect, f"({now} + {3600 * hours})")


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_steals_no_live_claim(
    database: Database, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    lost = threading.Event()
    with claims.wait_for(database, KEY, "me", 2).renewed(lost):
        jump(monkeypatch, hours)
        began = time.monotonic()
        while time.monotonic() - began < 3:
            assert claims.take(database, KEY, "you", 2) is None
            time.sleep(0.05)
        assert not lost.is_set()


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_jumps_blocks_no_dead_claim_for_longer_than_its_lease(
    database: Database, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    assert claims.take(database, KEY, "dead", 2) is not None
    jump(monkeypatch, hours)
    began = time.monotonic()
    assert claims.take(database, KEY, "you", 30) is not None
    assert time.monotonic() - began < 20, "an hour is out of the question"


def test_who_waits_learns_for_whom_and_until_when(database: Database) -> None:
    contender = claims.Contender(database, KEY, "here:1", 30)
    with claims.wait_for(database, KEY, "there:7", 30):
        assert contender.attempt() is None
        assert contender.holder is not None
        assert 28 < contender.holder.seconds <= 30
        until = datetime.now() + timedelta(seconds=contender.holder.seconds)
        assert f"process 7 on there, until {until:%H:%M}" in str(contender.holder)
    assert contender.attempt() is not None


def _race(settings: Settings, barrier: Any, results: Any) -> None:
    database = open_database(settings)
    barrier.wait()
    results.put([claims.take(database, f"{k:064}", "racer", 30) is not None for k in range(50)])


def test_of_racing_processes_exactly_one_gets_each_key(any_settings: Settings) -> None:
    open_database(any_settings).close()
    barrier, results = CONTEXT.Barrier(2), CONTEXT.Queue()
    racers = [start(_race, any_settings, barrier, results) for _ in range(2)]
    first, second = results.get(timeout=60), results.get(timeout=60)
    for racer in racers:
        racer.join()
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * 50
