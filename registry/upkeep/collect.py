"""What takes room and is of no use to anybody: finding it, and removing it for good."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, exists, func, select

from modkernel.errors import InUseError, NotFoundError
from modkernel.registry import saga
from modkernel.registry.backends import Backends, feature_cache
from modkernel.registry.beside.base import Beside
from modkernel.registry.beside.checkpoints import Checkpoints
from modkernel.registry.records import Garbage
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import (
    LineageRow,
    ModuleRow,
    NetworkModuleRow,
    NetworkRow,
    RemainsRow,
)
from modkernel.registry.tracking.moved import place_now
from modkernel.registry.tracking.remains import Kind
from modkernel.registry.upkeep.delete import Deletion
from modkernel.system.files import folder_bytes

ID_LENGTH = 64
"""Digits of a module's id."""


@dataclass(frozen=True)
class Collector:
    """Garbage. Every method raises StoreError where the database or MLflow fails.

    Removing is done in steps that can be repeated: after a kill the next look finds what is left.
    """

    backends: Backends
    checkpoints: Checkpoints
    beside: tuple[Beside[Any, Any], ...]

    def garbage(self) -> Iterator[Garbage]:
        """What nothing refers to, with the bytes that it takes.

        Removed in this order it is gone at once, but for models and runs of old versions, which are
        counted with these: they are deleted in MLflow first, and another look finds them there.
        """
        old = self._old_versions()
        for row in old:
            name = f"{row.name}/{row.version}"
            yield Garbage(kind="version", name=name, id=row.id, size_bytes=self._room_of(row))
        known = self._known().difference(row.id for row in old)
        yield from self._remains()
        yield from self._runs()
        yield from self._copies(known)
        yield from self._features(known)
        for run_id, name, size in self.checkpoints.left():
            yield Garbage(kind="checkpoint", name=name, id=run_id, size_bytes=size)

    def remove(self, garbage: Garbage) -> None:
        """Remove what `garbage` found; what came into use meanwhile stays.

        Work folders are their makers' to remove.
        """
        match garbage.kind:
            case "version":
                self._remove_version(garbage.id)
            case "model" | "run":
                self._remove_from_mlflow(garbage)
            case "checkpoint":
                self.checkpoints.remove(garbage.id)
            case "copy":
                if queries.by_id(self.backends.database, Path(garbage.id).name) is None:
                    shutil.rmtree(garbage.id, ignore_errors=True)
            case "features":
                feature_cache(self.backends.settings).remove(Path(garbage.id))

    def _old_versions(self) -> list[ModuleRow]:
        """Versions beyond the newest `keep_versions` of a name, with no alias, that nobody uses.

        What stands on others comes before these: they are used by no one once it is gone.
        """
        keep = self.backends.settings.keep_versions
        if keep is None:
            return []
        promised = queries.promoted_ids(self.backends.database)
        place = func.row_number().over(
            partition_by=ModuleRow.name, order_by=(ModuleRow.created_at.desc(), ModuleRow.id)
        )
        ready = (
            select(ModuleRow.id, place.label("place")).where(ModuleRow.state == "READY").subquery()
        )
        in_network = select(NetworkModuleRow.network_id).where(
            NetworkModuleRow.module_id == ModuleRow.id
        )
        old = (
            select(ModuleRow)
            .join(ready, ready.c.id == ModuleRow.id)
            .where(ready.c.place > keep, ~exists(in_network))
            .order_by(ModuleRow.created_at)
        )
        member = old.with_only_columns(ModuleRow.id).order_by(None).subquery()
        above = (
            select(LineageRow.member_id, LineageRow.module_id)
            .join(member, member.c.id == LineageRow.member_id)
            .where(LineageRow.module_id != LineageRow.member_id)
        )
        with self.backends.database.reading() as session:
            rows = session.scalars(old).all()
            standing = session.execute(above).all()
        aliases = self.backends.models.all_aliases({row.name for row in rows})
        promoted = {(name, version) for (name, _), (version, _) in aliases.items()}
        going = {
            row.id: row
            for row in rows
            if (row.name, row.version) not in promoted and row.id not in promised
        }
        users: defaultdict[str, set[str]] = defaultdict(set)
        for member_id, module_id in standing:
            users[member_id].add(module_id)
        while used := [one for one in going if not users[one] <= going.keys()]:
            for module_id in used:
                del going[module_id]
        # All that stands on a module has fewer above itself than that has.
        return sorted(going.values(), key=lambda row: len(users[row.id]))

    def _room_of(self, row: ModuleRow) -> int:
        """Bytes that a module's model and run take in MLflow's store."""
        model, run = row.model_id, row.run_id
        if run is not None and Deletion(self.backends).runs_for_others(row.id, run):
            run = None
        kept: tuple[tuple[Kind, str | None], ...] = ("model", model), ("run", run)
        places = (self.backends.remains.place_of(kind, one) for kind, one in kept if one)
        return sum(place[1] for place in places if place is not None)

    def _remains(self) -> Iterator[Garbage]:
        with self.backends.database.reading() as session:
            rows = session.scalars(select(RemainsRow).order_by(RemainsRow.deleted_at)).all()
        for row in rows:
            yield Garbage(
                kind="model" if row.kind == "model" else "run",
                name=row.name,
                id=row.id,
                size_bytes=row.size_bytes,
            )

    def _runs(self) -> Iterator[Garbage]:
        """Runs of ours that a person deleted in MLflow, and that are no module's or network's."""
        with self.backends.database.reading() as session:
            used = {
                *session.scalars(select(ModuleRow.run_id)),
                *session.scalars(select(NetworkRow.run_id)),
                *session.scalars(select(RemainsRow.id)),
            }
        for run in self.backends.remains.runs():
            if run.info.run_id not in used:
                place = self.backends.remains.place_of("run", run.info.run_id)
                if place is not None:
                    name = run.info.run_name or run.info.run_id
                    yield Garbage(kind="run", name=name, id=run.info.run_id, size_bytes=place[1])

    def _copies(self, known: set[str]) -> Iterator[Garbage]:
        """Private copies of the files of modules that are gone."""
        cache = self.backends.settings.cache_dir
        folders = [saga.modules_cache(self.backends), *(cache / one.kind for one in self.beside)]
        for path in (path for folder in folders for path in sorted(folder.glob("*"))):
            if len(path.name) == ID_LENGTH and path.name not in known:
                size = folder_bytes(path)
                yield Garbage(kind="copy", name=path.name[:12], id=str(path), size_bytes=size)

    def _features(self, known: set[str]) -> Iterator[Garbage]:
        for path, module_id, size in feature_cache(self.backends.settings).files():
            if not known.issuperset(module_id.split()):
                yield Garbage(kind="features", name=module_id[:12], id=str(path), size_bytes=size)

    def _known(self) -> set[str]:
        with self.backends.database.reading() as session:
            return {*session.scalars(select(ModuleRow.id))}

    def _remove_version(self, module_id: str) -> None:
        module = queries.by_id(self.backends.database, module_id)
        if module is None or module.state != "READY":
            return
        try:
            if module.version in self.backends.models.aliases(module.name).values():
                return
            if module.id in queries.promoted_ids(self.backends.database):
                return
            Deletion(self.backends).module(module)
        except (InUseError, NotFoundError):  # Since the look.
            return

    def _remove_from_mlflow(self, garbage: Garbage) -> None:
        kind: Kind = "model" if garbage.kind == "model" else "run"
        remains = self.backends.remains
        if remains.is_deleted(kind, garbage.id):
            self.backends.note_remains(kind, garbage.id, garbage.name)
            with self.backends.database.reading() as session:
                row = session.get(RemainsRow, garbage.id)
                uri = None if row is None else place_now(row.uri, self.backends.settings.home)
            if uri is not None:
                remains.remove(kind, garbage.id, uri)
        # Or it was brought back: it is in use.
        with self.backends.database.writing() as session:
            session.execute(delete(RemainsRow).where(RemainsRow.id == garbage.id))
