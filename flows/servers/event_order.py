"""The order of Prefect's events, for a server that was started again.

A state of a run waits for the event of the state before it, for up to 15 minutes, and which events
have been seen is known only to the process that saw them. Of a run that dies together with its
server, the next server would act on the crash a quarter of an hour late.
"""

from __future__ import annotations

import time
from uuid import UUID

from prefect.server.events.ordering.memory import CausalOrdering as InMemory
from prefect.server.events.schemas.events import Event

STARTED = time.time()


class CausalOrdering(InMemory):
    """Prefect's own, but for events from before this server: none of them is still to come."""

    async def event_has_been_seen(self, event: UUID | Event) -> bool:
        """Whether nothing has to wait for this event any more."""
        key = event.id if isinstance(event, Event) else event
        return _made_at(key) < STARTED or await super().event_has_been_seen(event)


def _made_at(key: UUID) -> float:
    """When an id was made, in seconds since 1970; never where it does not say so."""
    return (key.int >> 80) / 1000 if key.version == 7 else float("inf")
