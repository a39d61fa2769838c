"""The registry's PostgreSQL is away for a while: waited for, said so, and nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from modkernel.errors import StoreError
from modkernel.registry import Registry, Settings, saga
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import answers
from modkernel.system import outages
from tests.flows.helpers.processes import descendants
from tests.registry.conftest import Postgres
from tests.registry.helpers.examples import Examples, store_one

AWAY = 4.0
"""Seconds without the database: longer than the lease."""
KEY = "a" * 64

pytestmark = [pytest.mark.postgres, pytest.mark.servers]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(outages, "_watchers", [texts.append])
    monkeypatch.setattr(outages, "_away", set())
    return texts


@pytest.fixture
def far(settings: Settings, postgres_url: str) -> Iterator[Registry]:
    """A registry in PostgreSQL."""
    made = Settings(home=settings.home, lease_seconds=2, database_url=postgres_url)
    with Registry.open(made) as opened:
        yield opened


def away(postgres: Postgres) -> None:
    """Stop the server, and start it later."""
    postgres.stop()
    threading.Timer(AWAY, postgres.start).start()


@contextmanager
def silent(postgres: Postgres) -> Iterator[None]:
    """The server accepts connections, by the kernel, and answers nothing."""
    first = int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
    stopped = [first, *descendants(first)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes ten seconds without an answer takes two."""
    monkeypatch.setattr(answers, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(answers, "TOLD_AFTER_SECONDS", 0.5)


def test_work_under_a_claim_outlives_an_outage_longer_than_the_lease(
    far: Registry, postgres: Postgres, told: list[str]
) -> None:
    claim, lost = far.claim(KEY, "me"), threading.Event()
    assert claim is not None
    with claim.renewed(lost):
        away(postgres)
        assert far.modules.find() == (), "a reader waits"
        time.sleep(2)
        assert far.claim(KEY, "you") is None
        assert not lost.is_set()
    assert far.claim(KEY, "you") is not None
    assert "does not answer: waiting for it, for 120 s at most" in told[0]
    assert "secret-word" not in told[0]
    assert told[1].endswith("answers again.")
    assert len(told) == 2, "one line, however many threads wait"


@pytest.mark.parametrize(
    "step", ["ensure_model", pytest.param("ensure_version", marks=pytest.mark.long)]
)
def test_a_module_is_stored_across_an_outage(
    far: Registry,
    postgres: Postgres,
    examples: Examples,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    real = getattr(saga, step)

    def interrupted(backends: Backends, record: ModuleRecord) -> ModuleRecord:
        if not told:
            away(postgres)
        done: ModuleRecord = real(backends, record)
        return done

    monkeypatch.setattr(saga, step, interrupted)
    record = store_one(far, examples.first())
    assert (record.state, record.version) == ("READY", 1)
    assert (far.verify(), far.repair()) == ((), ())
    assert len(told) == 2


def test_a_database_that_stays_away_is_an_error_in_the_stated_time(
    far: Registry, postgres: Postgres, told: list[str]
) -> None:
    settings = far.settings.model_copy(update={"outage_seconds": 2})
    with Registry.open(settings) as registry:
        postgres.stop()
        try:
            began = time.monotonic()
            with pytest.raises(StoreError, match=r"failed.*Check that it runs"):
                registry.modules.find()
            assert 2 <= time.monotonic() - began < 20
        finally:
            postgres.start()
    assert "for 2 s at most" in told[0]


@pytest.mark.usefixtures("hasty")
def test_a_database_that_accepts_and_does_not_answer_is_waited_for(
    postgres: Postgres, settings: Settings, postgres_url: str, told: list[str]
) -> None:
    made = Settings(home=settings.home, lease_seconds=2, database_url=postgres_url)
    with Registry.open(made) as far:
        claim, lost = far.claim(KEY, "me"), threading.Event()
        assert claim is not None
        with claim.renewed(lost), far.backends.database.reading() as session:
            with silent(postgres):
                asked: list[object] = []
                threads = [
                    threading.Thread(target=lambda: asked.append(far.modules.find())),
                    threading.Thread(target=lambda: asked.append(session.scalar(text("select 7")))),
                ]
                for thread in threads:
                    thread.start()
                time.sleep(6)
                assert asked == []
            for thread in threads:
                thread.join(30)
            assert sorted(asked, key=str) == [(), 7], "in the middle of a session, too"
            assert not lost.is_set()
    assert "does not answer: waiting for it, for 120 s at most" in told[0]
    assert [text.endswith("answers again.") for text in told] == [False, True]


@pytest.mark.usefixtures("hasty")
def test_a_database_that_never_answers_is_an_error_in_the_stated_time(
    postgres: Postgres, settings: Settings, postgres_url: str
) -> None:
    made = Settings(home=settings.home, outage_seconds=3, database_url=postgres_url)
    with Registry.open(made) as far, silent(postgres):
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"failed.*Check that it runs"):
            far.modules.find()
        with pytest.raises(StoreError, match=r"failed.*Check that it runs"):
            Registry.open(made)
        assert time.monotonic() - began < 20
