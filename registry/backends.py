"""What is behind the registry, opened together: a database and MLflow."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from sqlalchemy import select
from sqlalchemy.orm import Session

from modkernel.features.cache import FeatureCache
from modkernel.registry.records import VersionRecord
from modkernel.registry.settings import Settings
from modkernel.registry.sql import queries
from modkernel.registry.sql.claims import Claim, wait_for
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import RemainsRow
from modkernel.registry.tracking.errors import translated
from modkernel.registry.tracking.models import AWAITS_ALIASES, Models
from modkernel.registry.tracking.moved import kept_place
from modkernel.registry.tracking.remains import Kind, Remains
from modkernel.registry.tracking.runs import Runs

T = TypeVar("T")


@dataclass(frozen=True)
class Backends:
    """SQL for identity, MLflow for runs and bytes. Safe to share between threads."""

    settings: Settings
    database: Database
    client: MlflowClient
    claim: Claim | None = None
    """Under which is written and deleted: nothing once another took it over."""

    @property
    def runs(self) -> Runs:
        """MLflow's runs."""
        return Runs(self.client, self.settings, self.database.identity)

    @property
    def models(self) -> Models:
        """MLflow's models."""
        return Models(self.client, self.settings, self.database.identity)

    @property
    def remains(self) -> Remains:
        """What is deleted in MLflow."""
        return Remains(self.client, self.settings, self.database.identity)

    def check_answers(self) -> None:
        """Look whether both answer at all: then what failed failed alone.

        Raises:
            StoreError: the database or MLflow does not answer.
        """
        with self.database.reading() as session:
            session.execute(select(1))
        with translated(self.client.tracking_uri):
            self.client.search_experiments(max_results=1)

    def note_remains(self, kind: Kind, identity: str, name: str) -> None:
        """Note what a model or a run keeps in MLflow's store, before it is deleted there."""
        place = self.remains.place_of(kind, identity)
        if place is None:
            return
        uri, size = kept_place(place[0], self.settings.home), place[1]
        with self.writing() as session:
            session.merge(
                RemainsRow(id=identity, kind=kind, name=name[:255], uri=uri, size_bytes=size)
            )

    def discard(self, kind: Kind, identity: str, name: str) -> None:
        """Delete a model or a run in MLflow; `Collector` removes it for good.

        Raises:
            LostClaimError: the claim that this is done under was taken over.
        """
        self.check_claim()
        self.note_remains(kind, identity, name)
        self.remains.delete(kind, identity)

    def wait_for_claim(self, module_id: str) -> Claim:
        """The right to write a module, waited for while another has it."""
        lease = self.settings.lease_seconds
        return wait_for(self.database, module_id, this_process(), lease)

    def under(self, claim: Claim) -> Backends:
        """Backends that write and delete for as long as a claim is held."""
        return replace(self, claim=claim)

    def under_claim(self, key: str, work: Callable[[Backends, bool], T]) -> T:
        """What work gives that is done under the claim on a key, waited for.

        Whoever stalls for longer than a lease (a laptop that sleeps) loses the claim, and another
        does the work meanwhile. MLflow cannot be told who holds it, so what was made there since
        stays beside the other's. The work is begun again then, under a claim of its own.

        Args:
            key: What is worked on.
            work: Is given the backends to write with, and whether it was begun before: then it has
                to remove what is there twice.
        """
        done: list[T] = []
        again = False
        while not done:
            with self.wait_for_claim(key).renewed() as claim, claim.unless_lost():
                done.append(work(self.under(claim), again))
            again = True
        return done[0]

    def check_claim(self) -> None:
        """Look whether the claim that this is done under is held still, and renew it.

        MLflow is asked to make or to delete something right after it: a process that stalled
        before makes nothing twice and deletes nothing of another's.

        Raises:
            LostClaimError: it was taken over.
        """
        if self.claim is not None:
            self.claim.renew()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction on the database that writes.

        Raises:
            LostClaimError: the claim that it is written under was taken over.
        """
        with self.database.writing() as session:
            if self.claim is not None:
                self.claim.check(session)
            yield session

    def bring_back_aliases(
        self, record: VersionRecord, version: ModelVersion, is_new: bool
    ) -> None:
        """Set again, on its version, the aliases that went with one that a person deleted.

        Args:
            record: whose version it is.
            version: in MLflow.
            is_new: it was made just now. Then it may have the number of the one that is gone: a
                registered model that was deleted, or has another name now, counts anew. So it may
                where who made it died before this, which the version tells.
        """
        number, awaits = int(version.version), AWAITS_ALIASES in version.tags
        gone = [
            alias
            for alias, (known, target) in queries.last_targets(self.database, record.name).items()
            if target == record.id and (is_new or awaits or known != number)
        ]
        set_now = self.models.aliases(record.name) if gone else {}
        for alias in gone:
            if alias not in set_now:
                self.models.set_alias(record.name, alias, number)
        if awaits:
            self.models.aliases_are_set(version)


def feature_cache(settings: Settings) -> FeatureCache:
    """The features that are cached on this machine."""
    return FeatureCache(settings.features_dir, settings.feature_cache_bytes)


def this_process() -> str:
    """How this process signs its claims."""
    return f"{socket.gethostname()}:{os.getpid()}"
