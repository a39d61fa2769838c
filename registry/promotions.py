"""Promotions: people set aliases in MLflow, the registry follows and keeps the history."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from modkernel.errors import NotFoundError
from modkernel.registry.backends import Backends
from modkernel.registry.records import PromotionRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.claims import INSERT
from modkernel.registry.sql.tables import ModuleRow, PromotionRow, utc_now
from modkernel.registry.tracking.models import MODULE_TAG

_Key = tuple[str, str]
"""Name of a registered model, and an alias of it."""
_Target = tuple[int | None, str | None]
"""Version and module that an alias points to; none of both where it was removed."""


@dataclass(frozen=True)
class Promotions:
    """Aliases. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends

    def promote(self, name: str, alias: str, version: int) -> PromotionRecord:
        """Point an alias of a registered model to a version, in MLflow, and record it.

        Raises:
            NotFoundError: there is no such version.
            SpecError: MLflow does not take the alias.
        """
        if self._module(name, version) is None:
            raise NotFoundError(
                f"'{name}' has no version {version} that modkernel stored: see 'modkernel modules "
                "list'."
            )
        self.backends.models.set_alias(name, alias, version)
        self.sync()
        return next(p for p in reversed(self.history(name)) if p.alias == alias)

    def sync(self) -> tuple[PromotionRecord, ...]:
        """Compare MLflow's aliases with the last ones seen and record what changed.

        Any number of processes may do this at once: a change is recorded once.

        Returns:
            The changes that this call recorded.
        """
        now = self._aliases()
        with self.backends.database.reading() as session:
            last = {
                (row.name, row.alias): (row.serial, row.version, row.module_id)
                for row in session.scalars(select(PromotionRow).order_by(PromotionRow.serial))
            }
        changes = []
        for key in sorted(now.keys() | last.keys()):
            serial, version, module_id = last.get(key, (0, None, None))
            target = now.get(key, (None, None))
            if target == (None, None) and self._waits_for_repair(key[0], version, module_id):
                continue
            if (version, module_id) != target and self._record(key, serial + 1, target):
                changes.append(
                    PromotionRecord(
                        name=key[0],
                        alias=key[1],
                        version=target[0],
                        module_id=target[1],
                        seen_at=utc_now(),
                    )
                )
        return tuple(changes)

    def history(self, name: str | None = None) -> tuple[PromotionRecord, ...]:
        """The promotions of all modules, or of one name, oldest first."""
        query = select(PromotionRow).order_by(PromotionRow.id)
        if name is not None:
            query = query.where(PromotionRow.name == name)
        with self.backends.database.reading() as session:
            return tuple(
                PromotionRecord(
                    name=row.name,
                    alias=row.alias,
                    version=row.version,
                    module_id=row.module_id,
                    seen_at=row.seen_at,
                )
                for row in session.scalars(query)
            )

    def _aliases(self) -> dict[_Key, _Target]:
        """What the aliases of our own models point to, as MLflow has it now."""
        with self.backends.database.reading() as session:
            ours = set(session.scalars(select(ModuleRow.name).distinct()))
        return {
            (name, alias): (version, self._module(name, version))
            for name, aliases in self.backends.models.all_aliases().items()
            if name in ours
            for alias, version in aliases.items()
        }

    def _module(self, name: str, version: int) -> str | None:
        try:
            tags = self.backends.models.version(name, str(version)).tags
        except NotFoundError:
            return None
        found: str | None = tags.get(MODULE_TAG)
        return found

    def _waits_for_repair(self, name: str, version: int | None, module_id: str | None) -> bool:
        """Whether an alias went with the version it pointed to, which a repair registers again.

        Deleting a version in MLflow deletes its aliases: nobody removed them.
        """
        if version is None or module_id is None or self._module(name, version) == module_id:
            return False
        record = queries.by_id(self.backends.database, module_id)
        return record is not None and record.state == "READY"

    def _record(self, key: _Key, serial: int, target: _Target) -> bool:
        insert = INSERT[self.backends.database.engine.dialect.name](PromotionRow)
        statement = (
            insert.values(
                name=key[0],
                alias=key[1],
                serial=serial,
                version=target[0],
                module_id=target[1],
                seen_at=utc_now(),
            )
            .on_conflict_do_nothing(index_elements=["name", "alias", "serial"])
            .returning(PromotionRow.id)
        )
        with self.backends.database.writing() as session:
            return session.execute(statement).first() is not None
