"""Prefect's runner, whose runs are forked from a process that has all loaded."""

from __future__ import annotations

import asyncio
from typing import Self

from prefect.client.schemas.objects import FlowRun
from prefect.runner import Runner
from prefect.runner._flow_run_executor import ProcessStarter
from prefect.runner._starter_engine import EngineCommandStarter

from modkernel.flows.servers.engine_server import EngineServer, engine_command

LOOK_SECONDS = 0.5
"""How often it is looked after that process."""
POLL_SECONDS = 5.0
"""How often the server is asked for runs that are due."""


class ForkingRunner(Runner):
    """Prefect's runner; a run begins in a second, not in ten.

    Until the process that forks is ready, or while it is gone, runs begin as Prefect begins them.
    """

    has_left = False
    """Whether it has left its work to others; else it ends as it was told to from outside."""

    async def __aenter__(self) -> Self:
        """As Prefect's."""
        await super().__aenter__()
        # Prefect's runner has no parameter for the command of its runs, as its worker has.
        poller = self._scheduled_run_poller
        resolve = poller._resolve_starter

        def forked(flow_run: FlowRun) -> ProcessStarter:
            starter = resolve(flow_run)
            if isinstance(starter, EngineCommandStarter):
                starter._command = engine_command()
            return starter

        poller._resolve_starter = forked
        return self

    @property
    def has_runs(self) -> bool:
        """Whether there are runs in hand, or about to begin."""
        return bool(self._scheduled_run_poller._submitting_flow_run_ids)

    def take_no_more(self) -> None:
        """Leave all further runs to others; those in hand go on."""
        self._scheduled_run_poller.stopping = True

    async def leave(self) -> None:
        """End serving."""
        self.has_left = True
        await self.astop()


async def look_after(engines: EngineServer) -> None:
    """Start the process that forks engines again whenever it dies, until cancelled."""
    while True:
        engines.keep_alive()
        await asyncio.sleep(LOOK_SECONDS)
