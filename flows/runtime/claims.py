"""Work on a key: claim it or wait for the flow that has, and renew the claim while working."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from modkernel.errors import StoppedError
from modkernel.flows.runtime.interrupts import stoppable
from modkernel.registry import Claim, Holder, Registry
from modkernel.registry.backends import this_process

T = TypeVar("T")

POLL_SECONDS = 0.3
"""Between two looks at a claim that another flow holds."""


def claim_unless(
    registry: Registry, key: str, find: Callable[[], T | None], waiting: Callable[[Holder], None]
) -> T | Claim:
    """What `find` finds, or else a claim on the key to make it.

    Waits while another holds the claim: it may finish, give up or die.

    Args:
        registry: keeps the claims.
        key: of what is made, such as a recipe digest.
        find: looks for what is ready; asked again under the claim, so nothing is made twice.
        waiting: told for whom, once for each whom there is a wait for.

    Raises:
        StoppedError: interrupted while waiting.
    """
    contender, stop = registry.contend(key, this_process()), threading.Event()
    waits_for: str | None = None
    with stoppable(stop):
        while True:
            found = find()
            if found is not None:
                return found
            claim = contender.attempt()
            if claim is not None:
                found = find()
                if found is None:
                    return claim
                claim.release()
                return found
            holder = contender.holder
            if holder is not None and holder.owner != waits_for:
                waiting(holder)
                waits_for = holder.owner
            if stop.wait(POLL_SECONDS):
                raise StoppedError("Waiting for another flow was interrupted: run it again.")


@contextmanager
def renewed(claim: Claim) -> Iterator[threading.Event]:
    """Renew a claim until the block ends. The event is set when the claim is lost: stop then.

    Raises:
        StoreError: the block was stopped because the claim was lost.
    """
    lost = threading.Event()
    with claim.renewed(lost):
        try:
            yield lost
        except StoppedError:
            if lost.is_set():
                claim.renew()  # Says why it cannot.
            raise
