"""Promotions: people set aliases in MLflow, the registry follows and keeps the history."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import select, update

from modkernel.errors import NotAllowedError, NotFoundError
from modkernel.registry.backends import Backends
from modkernel.registry.records import PromotionRecord, VersionRecord
from modkernel.registry.settings import Settings
from modkernel.registry.sql.claims import INSERT
from modkernel.registry.sql.tables import ModuleRow, NetworkRow, PromotionRow, utc_now
from modkernel.registry.tracking.aliases import Alias, Target
from modkernel.registry.tracking.login import USER

BACK = "rolled back"
"""How the reason of a roll-back begins, by which it is known from a promotion of an old version."""

DELETED = "deleted with what it meant"
"""The reason of an alias that went with its version."""


@dataclass(frozen=True)
class Promotions:
    """Aliases. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends

    def promote(
        self, name: str, alias: str, version: int, reason: str | None = None
    ) -> PromotionRecord:
        """Point an alias of a registered model to a version, in MLflow, and record it.

        Args:
            name: Of the registered model.
            alias: Such as 'production'.
            version: What it is to mean from now on.
            reason: Why, for the history.

        Raises:
            NotFoundError: there is no such version.
            NotAllowedError: the alias is protected, and whoever asks may not move it.
            SpecError: MLflow does not take the alias.
        """
        module_id = self.backends.models.stored_as(name, version)
        if module_id is None:
            raise NotFoundError(
                f"'{name}' has no version {version} that this registry stored: see 'modkernel "
                "modules list' and 'modkernel networks list'."
            )
        return self._move(name, alias, (version, module_id), reason)

    def demote(self, name: str, alias: str, reason: str | None = None) -> PromotionRecord:
        """Remove an alias of a registered model, in MLflow, and record it.

        Raises:
            NotFoundError: there is no such alias.
            NotAllowedError: the alias is protected, and whoever asks may not move it.
        """
        self._now(name, alias)
        return self._move(name, alias, (None, None), reason)

    def rollback(self, name: str, alias: str, reason: str | None = None) -> PromotionRecord:
        """Point an alias to the version that it pointed to before the one that it points to.

        Raises:
            NotFoundError: there is no such alias, none before, or that version is gone.
            NotAllowedError: the alias is protected, and whoever asks may not move it.
        """
        self.sync({name})
        now = self._now(name, alias)
        current = self.backends.models.stored_as(name, now)
        before = _before((one for one in self.history(name) if one.alias == alias), current)
        if before is None:
            raise NotFoundError(
                f"'{name}@{alias}' has pointed to no other version before version {now}: see "
                f"'modkernel modules history {name}'."
            )
        known, module_id = before
        version = self._version_now(name, known, module_id)
        if version is None:
            raise NotFoundError(
                f"Version {known} of '{name}', which '{alias}' pointed to before, is gone: "
                "promote another one."
            )
        return self._move(name, alias, (version, module_id), _why(reason))

    @contextmanager
    def removed_with(self, record: VersionRecord) -> Iterator[None]:
        """Within the block a module or network is deleted, and MLflow deletes its aliases with it.

        Raises:
            NotAllowedError: one is protected, and whoever asks may not move it.
        """
        found = self._aliases({record.name}).items()
        keys = [key for key, target in found if target[1] == record.id]
        people = [self.check_may_move(alias) for _, alias in keys]
        if keys:
            self.sync({record.name})
        serials = [self._newest(*key)[0] for key in keys]
        yield
        for key, serial, who in zip(keys, serials, people, strict=True):
            self._note(key, serial + 1, (None, None), who, DELETED)

    def _version_now(self, name: str, known: int | None, module_id: str | None) -> int | None:
        """The version that a module or network has now, if any; `known` is an earlier one."""
        with self.backends.database.reading() as session:
            row = session.get(ModuleRow, module_id) or session.get(NetworkRow, module_id)
            versions = (known, None if row is None else row.version)
        for version in versions:
            if version is not None and self.backends.models.stored_as(name, version) == module_id:
                return version
        return None

    def sync(self, names: Collection[str] | None = None) -> tuple[PromotionRecord, ...]:
        """Compare MLflow's aliases with the last ones seen and record what changed.

        Any number of processes may do this at once: a change is recorded once.

        Args:
            names: of the registered models whose aliases are looked at; all if left out, which
                takes a server of MLflow seconds where there are thousands.

        Returns:
            The changes that this call recorded.
        """
        seen = select(PromotionRow).order_by(PromotionRow.serial)
        if names is not None:
            seen = seen.where(PromotionRow.name.in_(names))
        with self.backends.database.reading() as session:
            last = {
                (row.name, row.alias): (row.serial, row.version, row.module_id)
                for row in session.scalars(seen)
            }
        # After what was seen last: a move that is recorded in between has the next serial then.
        now = self._aliases(names)
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
                        before=version,
                        seen_at=utc_now(),
                    )
                )
        return tuple(changes)

    def sync_named(self, references: Iterable[str]) -> None:
        """Record what the aliases among some references (NAME@ALIAS, or others) mean now."""
        self.sync({name for name, at, _ in (one.partition("@") for one in references) if at})

    def history(self, name: str | None = None) -> tuple[PromotionRecord, ...]:
        """The promotions of all modules, or of one name, oldest first."""
        query = select(PromotionRow).order_by(PromotionRow.id)
        if name is not None:
            query = query.where(PromotionRow.name == name)
        last: dict[Alias, int | None] = {}
        found = []
        with self.backends.database.reading() as session:
            for row in session.scalars(query):
                key = row.name, row.alias
                found.append(_record(row, last.get(key)))
                last[key] = row.version
        return tuple(found)

    @contextmanager
    def news(self) -> Iterator[tuple[PromotionRecord, ...]]:
        """Within the block, the moves that nobody was told of: each is given to one asker only.

        They are news again if the block ends in an error.
        """
        first = PromotionRow.told.is_(False)
        with self.backends.database.reading() as session:  # Asked every few seconds: no lock.
            is_news = session.scalars(select(PromotionRow.id).where(first).limit(1)).first()
        if is_news is None:
            yield ()
            return
        with self.backends.database.writing() as session:
            ids = session.scalars(
                update(PromotionRow).where(first).values(told=True).returning(PromotionRow.id)
            ).all()
        try:
            yield self._told(ids) if ids else ()
        except BaseException:
            with self.backends.database.writing() as session:
                again = update(PromotionRow).where(PromotionRow.id.in_(ids))
                session.execute(again.values(told=False))
            raise

    def _told(self, ids: Sequence[int]) -> tuple[PromotionRecord, ...]:
        query = select(PromotionRow).where(PromotionRow.id.in_(ids)).order_by(PromotionRow.id)
        with self.backends.database.reading() as session:
            return tuple(_record(row, None) for row in session.scalars(query))

    def _move(self, name: str, alias: str, target: Target, reason: str | None) -> PromotionRecord:
        who = self.check_may_move(alias)
        # What was moved by hand before is in the history first, and nobody's.
        self.sync({name})
        key, serial, now = (name, alias), *self._newest(name, alias)
        if target[0] is None:
            self.backends.models.remove_alias(name, alias)
        else:
            self.backends.models.set_alias(name, alias, target[0])
        if now != target:
            self._note(key, serial + 1, target, who, reason)
        return next(p for p in reversed(self.history(name)) if p.alias == alias)

    def _note(self, key: Alias, serial: int, target: Target, who: str, reason: str | None) -> None:
        """Record a move with who made it, also where another process saw it first."""
        if not self._record(key, serial, target, who, reason):
            change = update(PromotionRow).where(
                PromotionRow.name == key[0],
                PromotionRow.alias == key[1],
                PromotionRow.serial == serial,
                PromotionRow.who.is_(None),
            )
            with self.backends.database.writing() as session:
                session.execute(change.values(who=who, reason=reason))

    def _newest(self, name: str, alias: str) -> tuple[int, Target]:
        """Serial and target of what an alias was last seen to point to."""
        newest = (
            select(PromotionRow)
            .where(PromotionRow.name == name, PromotionRow.alias == alias)
            .order_by(PromotionRow.serial.desc())
            .limit(1)
        )
        with self.backends.database.reading() as session:
            row = session.scalars(newest).first()
            return (0, (None, None)) if row is None else (row.serial, (row.version, row.module_id))

    def _now(self, name: str, alias: str) -> int:
        try:
            return self.backends.models.aliases(name)[alias]
        except KeyError:
            raise NotFoundError(f"'{name}' has no alias '{alias}' in MLflow.") from None

    def check_may_move(self, alias: str) -> str:
        """Check that whoever runs this may move an alias; who that is.

        Raises:
            NotAllowedError: the alias is protected, and this is none of those who may move it.
        """
        who = caller(self.backends.settings)
        pairs = [pair.split(":", 1) for pair in self.backends.settings.protected_aliases]
        allowed = [person for protected, person in pairs if protected == alias]
        if allowed and who not in allowed:
            raise NotAllowedError(
                f"'{alias}' is a protected alias, and {who} may not move it: ask one of "
                f"{', '.join(allowed)} (MODKERNEL_PROTECTED_ALIASES)."
            )
        return who

    def _aliases(self, names: Collection[str] | None) -> dict[Alias, Target]:
        """What the aliases of our own models point to, as MLflow has it now."""
        with self.backends.database.reading() as session:
            ours = {
                *session.scalars(select(ModuleRow.name).distinct()),
                *session.scalars(select(NetworkRow.name).distinct()),
            }
        if names is not None:
            return self.backends.models.aliases_of(ours & set(names))
        return self.backends.models.all_aliases(ours)

    def _waits_for_repair(self, name: str, version: int | None, module_id: str | None) -> bool:
        """Whether an alias went with the version it pointed to, which a repair registers again.

        Deleting a version in MLflow deletes its aliases: nobody removed them.
        """
        if version is None or module_id is None:
            return False
        with self.backends.database.reading() as session:
            row = session.get(ModuleRow, module_id) or session.get(NetworkRow, module_id)
            if row is None or (isinstance(row, ModuleRow) and row.state != "READY"):
                return False
        return not self.backends.models.is_complete(name, version, module_id)

    def _record(
        self,
        key: Alias,
        serial: int,
        target: Target,
        who: str | None = None,
        reason: str | None = None,
    ) -> bool:
        insert = INSERT[self.backends.database.engine.dialect.name](PromotionRow)
        statement = (
            insert.values(
                name=key[0],
                alias=key[1],
                serial=serial,
                version=target[0],
                module_id=target[1],
                who=who,
                reason=reason,
                told=False,
                seen_at=utc_now(),
            )
            .on_conflict_do_nothing(index_elements=["name", "alias", "serial"])
            .returning(PromotionRow.id)
        )
        with self.backends.database.writing() as session:
            return session.execute(statement).first() is not None


def caller(settings: Settings) -> str:
    """Who runs this: the account of MLflow's server that is logged in with, or of this machine."""
    user = os.environ.get(USER) if settings.mlflow_uri.startswith("http") else None
    try:
        # Not by the environment, in which anybody can call himself as he likes.
        return user or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # In a container a user need have no name.


def _record(row: PromotionRow, before: int | None) -> PromotionRecord:
    return PromotionRecord(
        name=row.name,
        alias=row.alias,
        version=row.version,
        module_id=row.module_id,
        before=before,
        who=row.who,
        reason=row.reason,
        seen_at=row.seen_at,
    )


def _why(reason: str | None) -> str:
    return BACK if reason is None else f"{BACK}: {reason}"


def _before(moves: Iterable[PromotionRecord], current: str | None) -> tuple[int | None, str] | None:
    """What an alias pointed to before what it points to: its version then, and the id.

    What is in a version counts, not its number: a repair registers it under another one. A
    roll-back of a roll-back goes on to what was there before both.
    """
    past: list[tuple[int | None, str]] = []
    for move in moves:
        if move.module_id is None:
            continue
        ids = [module_id for _, module_id in past]
        if (move.reason or "").startswith(BACK) and move.module_id in ids:
            del past[len(ids) - 1 - ids[::-1].index(move.module_id) :]
        if not past or past[-1][1] != move.module_id:
            past.append((move.version, move.module_id))
    return next((one for one in reversed(past) if one[1] != current), None)
