"""Files that lie beside a module in its MLflow model: a row each, bytes in MLflow, a private copy.

What they hold can be computed again from the module and the data, so losing them costs that and no
more: what is missing or altered is found by `Registry.verify` and dropped by `Registry.repair`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from sqlalchemy import select

from modkernel.errors import ArtifactError
from modkernel.registry.backends import Backends
from modkernel.registry.records import BesideRecord, ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import GroundTruthRow, MomentsRow
from modkernel.registry.tracking import artifacts
from modkernel.system.files import copy_file, hash_file

R = TypeVar("R", bound=BesideRecord)
V = TypeVar("V")


@dataclass(frozen=True)
class Beside(ABC, Generic[R, V]):
    """Files of one kind. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends

    kind: ClassVar[Literal["moments", "ground_truth"]]
    """Their folder, in MLflow's model and in the private cache; and of a problem with them."""
    again: ClassVar[str]
    """What computes them again, in words."""
    row_type: ClassVar[type[MomentsRow] | type[GroundTruthRow]]
    record_type: ClassVar[type[Any]]

    def get(self, record: ModuleRecord, key: str) -> R | None:
        """The record of a module's file under a key, if there is one."""
        with self.backends.database.reading() as session:
            row = session.get(self.row_type, (record.id, key))
            return None if row is None else self.record_of(row)

    def of(self, record: ModuleRecord) -> tuple[R, ...]:
        """All of a module, oldest first."""
        rows = self.row_type
        query = select(rows).where(rows.module_id == record.id).order_by(rows.created_at)
        with self.backends.database.reading() as session:
            return tuple(map(self.record_of, session.scalars(query)))

    def read(self, record: ModuleRecord, kept: R) -> V:
        """What a file holds, out of the private cache or through MLflow; it is hashed.

        Raises:
            ArtifactError: its bytes are missing or altered in MLflow's store.
        """
        path = self.copy_of(kept)
        if path.is_file():
            try:
                return self.parse(path, kept.sha256)
            except ArtifactError:
                path.unlink(missing_ok=True)
        client, model_id = self.backends.client, record.model_id or ""
        artifacts.download_file(client, model_id, kept.path, kept.sha256, path)
        return self.parse(path, kept.sha256)

    @classmethod
    @abstractmethod
    def parse(cls, path: Path, sha256: str) -> V:
        """What a file of this hash holds.

        Raises:
            ArtifactError: it is another one, or none.
        """

    def is_intact(self, record: ModuleRecord, kept: R) -> bool:
        """Whether the bytes are in MLflow's store as they were stored; they are hashed."""
        try:
            artifacts.check_files(
                self.backends.client, record.model_id or "", {kept.path: kept.sha256}
            )
        except ArtifactError:
            return False
        return True

    def keep(
        self, record: ModuleRecord, new: R, file: Path, serves: Callable[[R], bool] = lambda _: True
    ) -> R:
        """Store a file beside its module, unless one under its key is there that serves.

        The bytes are hashed where MLflow keeps them before the row appears. Of any number of
        processes that do this at once, the first one's file stays and all get its record.

        Args:
            record: The module.
            new: Describes the file.
            file: It.
            serves: Whether one that is there, and intact, is as good.

        Raises:
            ArtifactError: the file is gone, or the module's own bytes are.
            NotFoundError: the module is not ready.
        """

        def work(backends: Backends, _: bool) -> R:
            now = queries.required(backends.database, record.id)
            found = self.get(now, new.key)
            if found is not None and self.is_intact(now, found) and serves(found):
                return found
            try:
                copy_file(file, self.copy_of(new))
            except FileNotFoundError as error:
                raise self.unreadable(file, error) from error
            self._upload(now, new)
            with backends.writing() as session:
                session.merge(self.row_type(**new.model_dump()))
            return new

        # The key under which the module is stored and repaired: its MLflow model stays what it is.
        return self.backends.under_claim(record.id, work)

    def fix(self, record: ModuleRecord) -> Iterator[tuple[R, bool]]:
        """Put files that MLflow has lost there again, or drop them. Needs the module's claim.

        Yields:
            Each record of a lost file, and whether the private copy could restore it.
        """
        for kept in self.of(record):
            if self.is_intact(record, kept):
                continue
            path = self.copy_of(kept)
            restored = path.is_file() and hash_file(path) == kept.sha256
            if restored:
                self._upload(record, kept)
            else:
                with self.backends.writing() as session:
                    session.delete(session.get_one(self.row_type, (kept.module_id, kept.key)))
                path.unlink(missing_ok=True)
            yield kept, restored

    def copy_of(self, kept: R) -> Path:
        """Where the private copy is."""
        folder = self.backends.settings.cache_dir / self.kind / kept.module_id
        return folder / Path(kept.path).name

    @classmethod
    def record_of(cls, row: Any) -> R:
        """A row as a record."""
        fields = {name: getattr(row, name) for name in cls.record_type.model_fields}
        record: R = cls.record_type(**fields)
        return record

    def _upload(self, record: ModuleRecord, kept: R) -> None:
        """Copy the private copy to MLflow, and hash it there."""
        client, model_id = self.backends.client, record.model_id or ""
        artifacts.location_of(client, model_id)  # says what to do where there is none
        self.backends.models.log_file(model_id, str(self.copy_of(kept)), self.kind)
        artifacts.flush_model(client, model_id, kept.path)
        artifacts.check_files(client, model_id, {kept.path: kept.sha256})

    @classmethod
    def unreadable(cls, path: Path, error: OSError) -> ArtifactError:
        """The error for a file that cannot be read."""
        return ArtifactError(f"Cannot read {path}: {error.strerror or error}. {cls.again}.")
