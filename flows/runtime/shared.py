"""What all flows of one process share: the registry, and the server that forks children.

Commands import it before they choose a Prefect server, so it imports Prefect where that is told
something alone; see `modkernel.flows.servers.prefect_env`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache

from modkernel.flows.runtime.events import Note, emit
from modkernel.jobs.client import ForkServer
from modkernel.registry import Registry, Settings
from modkernel.system.outages import tell_outages_to


def open_registry() -> Registry:
    """The registry of the settings in force, opened once a process.

    Raises:
        SettingsError, SchemaVersionError, StoreError: see `Registry.open`.
    """
    return _open(Settings())


@cache
def _open(settings: Settings) -> Registry:
    settings.ensure_home()
    tell_outages_to(_told)
    return Registry.open(settings)


def _told(text: str) -> None:
    emit(Note(text))
    if "prefect" not in sys.modules:
        return
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    # Not every thread that waits is a flow's or a task's.
    with suppress(MissingContextError):
        get_run_logger().warning(text)


@cache
def fork_server() -> ForkServer:
    """The fork server of this process."""
    return ForkServer()
