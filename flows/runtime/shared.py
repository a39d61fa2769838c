"""What all flows of one process share: the registry, and the server that forks children."""

from __future__ import annotations

from functools import cache

from modkernel.data import DataPlaces
from modkernel.jobs.client import ForkServer
from modkernel.registry import Registry, Settings


def open_registry() -> Registry:
    """The registry of the settings in force, opened once a process.

    Raises:
        SettingsError, SchemaVersionError, StoreError: see `Registry.open`.
    """
    return _open(Settings())


@cache
def _open(settings: Settings) -> Registry:
    settings.ensure_home()
    return Registry.open(settings)


def places(settings: Settings) -> DataPlaces:
    """Where data sets are."""
    return DataPlaces(root=settings.data_root, cache=settings.cache_dir, download=settings.download)


@cache
def fork_server() -> ForkServer:
    """The fork server of this process."""
    return ForkServer()
