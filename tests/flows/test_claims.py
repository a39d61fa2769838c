"""Claims as the flows use them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from modkernel.errors import StoppedError, StoreError
from modkernel.flows.runtime.claims import claim_unless, renewed
from modkernel.registry import Claim, Holder, Registry

DIGEST = "a" * 64


def test_what_is_ready_is_not_claimed(registry: Registry) -> None:
    assert claim_unless(registry, DIGEST, lambda: "module", lambda _: None) == "module"
    assert registry.claim(DIGEST, "someone") is not None


def test_what_became_ready_while_claiming_is_found(registry: Registry) -> None:
    answers = iter([None, "module"])
    assert claim_unless(registry, DIGEST, lambda: next(answers), lambda _: None) == "module"
    assert registry.claim(DIGEST, "someone") is not None, "the claim was given back"


def test_a_claim_of_another_is_waited_for(registry: Registry) -> None:
    other = registry.claim(DIGEST, "there:7")
    assert other is not None
    waits: list[str] = []

    def waiting(holder: Holder) -> None:
        waits.append(holder.owner)
        threading.Timer(0.5, other.release).start()

    mine = claim_unless(registry, DIGEST, lambda: None, waiting)
    assert isinstance(mine, Claim)
    assert waits == ["there:7"]


def test_a_claim_is_renewed_while_training_takes_longer_than_its_lease(registry: Registry) -> None:
    mine = registry.claim(DIGEST, "me")
    assert mine is not None
    with renewed(mine) as lost:
        time.sleep(registry.settings.lease_seconds + 0.7)
        assert registry.claim(DIGEST, "other") is None
        assert not lost.is_set()
    assert registry.claim(DIGEST, "other") is not None


def test_whoever_lost_a_claim_is_stopped_with_the_reason(registry: Registry) -> None:
    mine = registry.claim(DIGEST, "me")
    assert mine is not None

    def stopped_once_lost() -> None:
        with renewed(mine) as lost:
            # As if this process had slept for longer than its lease, and another came.
            mine.release()
            assert registry.claim(DIGEST, "other") is not None
            assert lost.wait(5)
            raise StoppedError("stopped")

    with pytest.raises(StoreError, match="another took it over"):
        stopped_once_lost()


def test_being_asked_to_stop_is_no_lost_claim(registry: Registry, tmp_path: Path) -> None:
    mine = registry.claim(DIGEST, "me")
    assert mine is not None
    with pytest.raises(StoppedError), renewed(mine):
        raise StoppedError("stopped")
    assert registry.claim(DIGEST, "other") is not None
