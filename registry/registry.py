"""The registry as one object: what flows and the command line use."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from modkernel.registry.advice.ranking import Adviser
from modkernel.registry.backends import Backends
from modkernel.registry.beside.checkpoints import Checkpoints
from modkernel.registry.beside.examples import SeenExamples
from modkernel.registry.beside.ground_truths import GroundTruths
from modkernel.registry.beside.moments import StoredMoments
from modkernel.registry.modules import Modules
from modkernel.registry.networks import Networks
from modkernel.registry.promotions import Promotions
from modkernel.registry.records import (
    Action,
    Dependents,
    Garbage,
    ModuleRecord,
    NetworkRecord,
    Problem,
    StoredNames,
)
from modkernel.registry.settings import Settings
from modkernel.registry.sql import claims
from modkernel.registry.sql.claims import Claim, Contender
from modkernel.registry.sql.engine import open_database
from modkernel.registry.sql.names import stored_names
from modkernel.registry.tracking.baselines import Baselines
from modkernel.registry.tracking.client import open_mlflow
from modkernel.registry.upkeep.collect import Collector
from modkernel.registry.upkeep.delete import Deletion
from modkernel.registry.upkeep.repair import Repair, close_dead_runs


class Registry:
    """Stored modules, networks made of them, and their runs.

    Safe to share between threads; processes each open their own. What it guarantees:

    - A module's id, spec, hashes and lineage never change once it is stored.
    - Of any number of processes exactly one holds the claim on a key.
    - A READY module's bytes were hashed where they are kept before it became READY, and are
      hashed again each time they are fetched.
    - A network names its modules by id and hashes: a later promotion never changes it.

    Every method, also of its parts, raises StoreError where a database or MLflow does not answer.

    Attributes:
        settings: Where things are.
        modules: Stored modules: store, find, resolve, fetch.
        moments: Class moments of modules: store, load.
        ground_truths: What modules were found to be worth: store, find.
        examples: Which examples modules were trained on: remember, count.
        networks: Compositions: add, find, resolve, load.
        promotions: Aliases that people set in MLflow, and their history.
        advice: Which module to build on for a task.
        baselines: Networks trained as a whole, to compare with.
        checkpoints: Of training that is under way, for other machines.
        runs: MLflow's runs: start, log, finish.
    """

    def __init__(self, backends: Backends) -> None:
        self.backends = backends
        self.settings = backends.settings
        self.runs = backends.runs
        self.moments = StoredMoments(backends)
        self.examples = SeenExamples(backends)
        self.ground_truths = GroundTruths(backends)
        self._beside = (self.moments, self.ground_truths)
        self.modules = Modules(backends, self.moments, self._beside)
        self.networks = Networks(backends, self.modules)
        self.promotions = Promotions(backends)
        self.advice = Adviser(backends, self.moments, self.examples)
        self.baselines = Baselines(self.runs)
        self.checkpoints = Checkpoints(backends)
        self._collector = Collector(backends, self.checkpoints, self._beside)

    @classmethod
    def open(cls, settings: Settings) -> Registry:
        """Open the database and MLflow's; empty ones are made, by one process at a time.

        Raises:
            SchemaVersionError: a database of another schema version; the message names both
                versions and the command.
            SettingsError: the home cannot be written to.
            StoreError: one of them does not answer.
        """
        return cls(Backends(settings, open_database(settings), open_mlflow(settings)))

    def close(self) -> None:
        """Close the connections to the registry's database."""
        self.backends.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def claim(self, key: str, owner: str) -> Claim | None:
        """The right to train a recipe or do other work once, or none while another has it.

        The claim ends by itself when it is not renewed for `settings.lease_seconds`.

        Args:
            key: What is worked on, such as a recipe digest.
            owner: Who works, for messages.
        """
        return claims.take(self.backends.database, key, owner, self.settings.lease_seconds)

    def is_claimed(self, key: str) -> bool:
        """Whether somebody has the claim on a key at this moment."""
        return claims.is_held(self.backends.database, key)

    def contend(self, key: str, owner: str) -> Contender:
        """As `claim`, for whoever waits: it is tried again and again, and says for whom."""
        return Contender(self.backends.database, key, owner, self.settings.lease_seconds)

    def names(self) -> StoredNames:
        """What is stored, by the names that people choose from; aliases as `promotions` saw them.

        Cheap enough to be asked every few seconds.
        """
        return stored_names(self.backends.database)

    def dependents(self, modules: Sequence[ModuleRecord]) -> Dependents:
        """All that stands on some modules: what goes with them if they are deleted."""
        return Deletion(self.backends).dependents(modules)

    def delete_module(self, module: ModuleRecord) -> None:
        """Delete a module from the registry and from MLflow; `collect` frees its bytes.

        Raises:
            InUseError: something stands on it; the message names it.
            NotFoundError: it is gone.
        """
        Deletion(self.backends).module(module)

    def delete_network(self, network: NetworkRecord) -> None:
        """Delete a network from the registry and from MLflow; its modules stay."""
        Deletion(self.backends).network(network)

    def garbage(self) -> tuple[Garbage, ...]:
        """What takes room and nothing refers to: deleted in MLflow, cached, or left behind."""
        return tuple(self._collector.garbage())

    def collect(self, garbage: Garbage) -> None:
        """Remove some garbage for good, unless it came into use since it was found."""
        self._collector.remove(garbage)

    def verify(self) -> tuple[Problem, ...]:
        """All that is wrong with the stored modules; every byte in MLflow's store is hashed.

        A module that a live process is storing at this moment is no problem. One that cannot be
        read now is `unread`: it is not known whether it is lost.

        Raises:
            StoreError: the database or MLflow does not answer at all.
        """
        return tuple(Repair(self.backends, self._beside).problems())

    def at_work(self) -> tuple[str, ...]:
        """Of what is half-stored, a sentence on who stores or deletes it at this moment.

        `verify` and `repair` leave that alone. A process that was killed counts as at work until
        its claim has ended, `settings.lease_seconds` later at most.

        Raises:
            StoreError: the database does not answer.
        """
        return tuple(Repair(self.backends, self._beside).at_work())

    def repair(self) -> tuple[Action, ...]:
        """Finish or undo what is unfinished, restore bytes from the cache, register versions again.

        What a person deleted in MLflow and `mlflow gc` has not taken yet is brought back there.
        What cannot be fixed is marked LOST, so that it is never reused and can be trained again;
        it is READY again when its bytes are back, such as those of a disk that was not mounted.
        MLflow runs that are running with nobody at work in them are closed.
        Running it twice does nothing the second time. What cannot be read or repaired now is
        `failed`, and all else is done; nothing is marked LOST for that.

        Raises:
            StoreError: the database or MLflow does not answer at all.
        """
        repair = Repair(self.backends, self._beside)
        fixed = [action for problem in repair.problems() for action in repair.fix(problem)]
        return (*fixed, *close_dead_runs(self.backends))
