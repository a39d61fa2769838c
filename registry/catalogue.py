"""What is stored, read from the database alone: a command that reads waits for nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from modkernel.registry.records import ModuleRecord, NetworkRecord, StoredNames, version_number
from modkernel.registry.settings import Settings
from modkernel.registry.sql import networks, queries
from modkernel.registry.sql.engine import Database, open_database
from modkernel.registry.sql.find import ModuleQuery, accuracies, count_modules, find_modules
from modkernel.registry.sql.names import stored_names


@dataclass(frozen=True)
class Catalogue:
    """Stored modules and networks, without torch and MLflow: it reads, and is open at once.

    Every method raises StoreError where the database fails.
    """

    settings: Settings
    database: Database

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the registry's database; an empty one is made.

        Raises:
            SchemaVersionError: it has another schema version.
            SettingsError: the home cannot be written to.
            StoreError: it does not answer.
        """
        return cls(settings, open_database(settings))

    def modules(
        self, query: ModuleQuery, newest: int | None = None, older_than: ModuleRecord | None = None
    ) -> tuple[ModuleRecord, ...]:
        """The ready modules that a query asks for, oldest first; see `find_modules`."""
        return find_modules(self.database, query, newest, older_than)

    def names(self) -> StoredNames:
        """What is stored, by the names that people choose from."""
        return stored_names(self.database)

    def count(self, query: ModuleQuery, most: int | None = None) -> int:
        """How many ready modules a query finds; after `most` it counts no further."""
        return count_modules(self.database, query, most)

    def accuracies(self, modules: tuple[ModuleRecord, ...]) -> dict[str, float]:
        """By id: of an output module, or of the best output module on a hidden one."""
        return accuracies(self.database, [module.id for module in modules])

    def module(self, reference: str) -> ModuleRecord:
        """The ready module of a reference, as `Modules.resolve`; MLflow is asked for aliases alone.

        Raises:
            NotFoundError: no ready module answers to it.
            AmbiguousError: a prefix of several ids.
        """
        name, slash, version = reference.partition("/")
        if "@" not in reference and not slash:
            return queries.newest_or_prefix(self.database, reference)
        number = version_number(version)
        if number is not None:
            record = queries.of_version(self.database, name, number)
            if record is not None:
                return record
        from modkernel.registry.registry import Registry

        with Registry.open(self.settings) as registry:
            return registry.modules.resolve(reference)

    def labels_told(self, module: ModuleRecord) -> str | None:
        """Of an output module that no test label judges: how many labels it had, in words."""
        return queries.labels_told(self.database, module.id)

    def chain(self, module: ModuleRecord) -> tuple[ModuleRecord, ...]:
        """The modules that a module stands on, first to last, itself last."""
        return queries.chain(self.database, module.id)

    def standing_on(self, module: ModuleRecord) -> tuple[ModuleRecord, ...]:
        """The modules that stand on a module, however far above, oldest first."""
        return queries.standing_on(self.database, module.id)

    def copies(self, module: ModuleRecord) -> tuple[ModuleRecord, ...]:
        """The stitches that have a copy of a module, oldest first."""
        return self.modules(ModuleQuery(copy_of=module.id))

    def by_id(self, module_id: str) -> ModuleRecord | None:
        """The ready module of an id, if there is one."""
        found = queries.by_id(self.database, module_id)
        return found if found is not None and found.state == "READY" else None

    def networks(
        self, name: str | None = None, newest: int | None = None
    ) -> tuple[NetworkRecord, ...]:
        """All networks, those of a name, or the `newest` ones at most; oldest first."""
        return networks.find(self.database, name, newest)

    def network(self, reference: str) -> NetworkRecord:
        """The network of a reference, as `Networks.resolve`.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: a prefix of several ids.
        """
        if not {"@", "/"} & {*reference}:
            return networks.resolve(self.database, reference)
        from modkernel.registry.registry import Registry

        with Registry.open(self.settings) as registry:
            return registry.networks.resolve(reference)

    def members(self, network: NetworkRecord) -> tuple[ModuleRecord, ...]:
        """The modules of a network, first to last.

        Raises:
            NotFoundError: one of them is lost.
        """
        return networks.members(self.database, network)

    def sharing(self, network: NetworkRecord) -> dict[str, tuple[NetworkRecord, ...]]:
        """By id of each module of a network: the other networks that have it, oldest first."""
        return networks.sharing(self.database, network)

    def networks_with(self, module: ModuleRecord) -> tuple[NetworkRecord, ...]:
        """The networks that have a module, oldest first."""
        return networks.with_modules(self.database, [module.id])
