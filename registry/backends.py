"""What is behind the registry, opened together: a database and MLflow."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from mlflow import MlflowClient

from modkernel.features.cache import FeatureCache
from modkernel.registry.settings import Settings
from modkernel.registry.sql.claims import Claim, wait_for
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import RemainsRow
from modkernel.registry.tracking.models import Models
from modkernel.registry.tracking.remains import Kind, Remains
from modkernel.registry.tracking.runs import Runs


@dataclass(frozen=True)
class Backends:
    """SQL for identity, MLflow for runs and bytes. Safe to share between threads."""

    settings: Settings
    database: Database
    client: MlflowClient

    @property
    def runs(self) -> Runs:
        """MLflow's runs."""
        return Runs(self.client, self.settings)

    @property
    def models(self) -> Models:
        """MLflow's models."""
        return Models(self.client, self.settings)

    @property
    def remains(self) -> Remains:
        """What is deleted in MLflow."""
        return Remains(self.client, self.settings)

    def note_remains(self, kind: Kind, identity: str, name: str) -> None:
        """Note what a model or a run keeps in MLflow's store, before it is deleted there."""
        place = self.remains.place_of(kind, identity)
        if place is None:
            return
        uri, size = place
        with self.database.writing() as session:
            session.merge(
                RemainsRow(id=identity, kind=kind, name=name[:255], uri=uri, size_bytes=size)
            )

    def discard(self, kind: Kind, identity: str, name: str) -> None:
        """Delete a model or a run in MLflow; `Collector` removes it for good."""
        self.note_remains(kind, identity, name)
        self.remains.delete(kind, identity)

    def wait_for_claim(self, module_id: str) -> Claim:
        """The right to write a module, waited for while another has it."""
        lease = self.settings.lease_seconds
        return wait_for(self.database, module_id, this_process(), lease)


def feature_cache(settings: Settings) -> FeatureCache:
    """The features that are cached on this machine."""
    return FeatureCache(settings.features_dir, settings.feature_cache_bytes)


def this_process() -> str:
    """How this process signs its claims."""
    return f"{socket.gethostname()}:{os.getpid()}"
