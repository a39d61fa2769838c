"""The registry's PostgreSQL is away for a while: waited for, said so, and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from modkernel.errors import StoreError
from modkernel.registry import Registry, Settings, saga
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord
from modkernel.system import outages
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


@pytest.mark.parametrize("step", ["ensure_model", "ensure_version"])
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
