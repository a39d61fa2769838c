"""Class moments of stored modules: a row, bytes beside the weights in MLflow, a private copy.

They can be computed again from the module and the data, so losing them costs a pass over the data
and no more: what is missing or altered is found by `Registry.verify` and dropped by
`Registry.repair`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from modkernel.errors import ArtifactError, MomentsError
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord, MomentsRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import MomentsRow, utc_now
from modkernel.registry.tracking import artifacts
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import read_moments
from modkernel.system.files import copy_file, hash_file

FOLDER = artifacts.MOMENTS_FOLDER


@dataclass(frozen=True)
class StoredMoments:
    """Stored moments. Every method raises StoreError where the database or MLflow fails."""

    backends: Backends

    def store(self, record: ModuleRecord, file: Path, dataset: str | None = None) -> MomentsRecord:
        """Store a file of moments beside its module; those of the same data that are there stay.

        The bytes are hashed where MLflow keeps them before the row appears. Of any number of
        processes that do this at once, the first one's moments stay and all get their record.

        Args:
            record: The module.
            file: As `modkernel.reuse.moments_file.write_moments` leaves it.
            dataset: Name of the data set; of the module's own data it is known.

        Raises:
            ArtifactError: the file is missing, altered or no file of moments, or the module's
                own bytes are gone.
            MomentsError: it holds the moments of another module.
            NotFoundError: the module is not ready.
        """
        new = _described(record, file, dataset)
        # The key under which the module is stored and repaired: its MLflow model stays what it is.
        with self.backends.wait_for_claim(record.id).renewed():
            record = queries.required(self.backends.database, record.id)
            found = self.get(record, new.fingerprint)
            if found is not None and self.is_intact(record, found):
                return found
            try:
                copy_file(file, self.copy_of(new))
            except FileNotFoundError as error:
                raise _unreadable(file, error) from error
            self._upload(record, new)
            with self.backends.database.writing() as session:
                session.merge(MomentsRow(**new.model_dump()))
        return new

    def load(self, record: ModuleRecord, fingerprint: str) -> ModuleMoments:
        """The moments of a module on the data of a fingerprint.

        Raises:
            MomentsError: there are none; the message names the command that computes them.
            ArtifactError: their bytes are missing or altered in MLflow's store.
        """
        found = self.get(record, fingerprint)
        if found is None:
            raise MomentsError(none_of(record, f"the data of fingerprint {fingerprint[:12]}"))
        return self.read(record, found)

    def read(self, record: ModuleRecord, moments: MomentsRecord) -> ModuleMoments:
        """The moments of a record, out of the private cache or through MLflow; they are hashed.

        Raises:
            ArtifactError: their bytes are missing or altered in MLflow's store.
        """
        path = self.copy_of(moments)
        if path.is_file():
            try:
                return read_moments(path, moments.sha256)
            except ArtifactError:
                path.unlink(missing_ok=True)
        client, model_id = self.backends.client, record.model_id or ""
        artifacts.download_file(client, model_id, moments.path, moments.sha256, path)
        return read_moments(path, moments.sha256)

    def get(self, record: ModuleRecord, fingerprint: str) -> MomentsRecord | None:
        """The record of a module's moments on the data of a fingerprint, if there are any."""
        with self.backends.database.reading() as session:
            row = session.get(MomentsRow, (record.id, fingerprint))
            return None if row is None else record_of(row)

    def has(self, record: ModuleRecord, fingerprint: str) -> bool:
        """Whether a module has moments of the data of a fingerprint."""
        return self.get(record, fingerprint) is not None

    def of(self, record: ModuleRecord) -> tuple[MomentsRecord, ...]:
        """What a module was measured on, oldest first."""
        query = select(MomentsRow).where(MomentsRow.module_id == record.id)
        with self.backends.database.reading() as session:
            return tuple(map(record_of, session.scalars(query.order_by(MomentsRow.created_at))))

    def is_intact(self, record: ModuleRecord, moments: MomentsRecord) -> bool:
        """Whether the bytes are in MLflow's store as they were stored; they are hashed."""
        try:
            artifacts.check_files(
                self.backends.client, record.model_id or "", {moments.path: moments.sha256}
            )
        except ArtifactError:
            return False
        return True

    def fix(self, record: ModuleRecord) -> Iterator[tuple[MomentsRecord, bool]]:
        """Put moments that MLflow has lost there again, or drop them. Needs the module's claim.

        Yields:
            Each record of lost moments, and whether the private copy could restore them.
        """
        for moments in self.of(record):
            if self.is_intact(record, moments):
                continue
            path = self.copy_of(moments)
            restored = path.is_file() and hash_file(path) == moments.sha256
            if restored:
                self._upload(record, moments)
            else:
                path.unlink(missing_ok=True)
                with self.backends.database.writing() as session:
                    key = (moments.module_id, moments.fingerprint)
                    session.delete(session.get_one(MomentsRow, key))
            yield moments, restored

    def copy_of(self, moments: MomentsRecord) -> Path:
        """Where the private copy is."""
        folder = self.backends.settings.cache_dir / "moments" / moments.module_id
        return folder / f"{moments.fingerprint}.safetensors"

    def _upload(self, record: ModuleRecord, moments: MomentsRecord) -> None:
        """Copy the private copy to MLflow, and hash it there."""
        client, model_id = self.backends.client, record.model_id or ""
        artifacts.location_of(client, model_id)  # says what to do where there is none
        self.backends.models.log_file(
            model_id, str(self.copy_of(moments)), artifacts.MOMENTS_FOLDER
        )
        artifacts.flush_model(client, model_id, moments.path)
        artifacts.check_files(client, model_id, {moments.path: moments.sha256})


def none_of(record: ModuleRecord, data: str) -> str:
    """The sentence for moments that nobody has computed."""
    return (
        f"Module {record.short_id} ({record.name}) has no moments of {data}: 'modkernel advise' "
        "with that data set computes them."
    )


def record_of(row: MomentsRow) -> MomentsRecord:
    """A row as a record."""
    return MomentsRecord(**{name: getattr(row, name) for name in MomentsRecord.model_fields})


def _described(record: ModuleRecord, file: Path, dataset: str | None) -> MomentsRecord:
    """The record of a file of moments, which is checked."""
    try:
        sha256, size_bytes = hash_file(file), file.stat().st_size
    except OSError as error:
        raise _unreadable(file, error) from error
    moments = read_moments(file, sha256)
    fingerprint = moments.train.fingerprint
    if moments.module_id != record.id:
        raise MomentsError(
            f"{file} holds the moments of module {moments.module_id[:12]}, not of "
            f"{record.short_id} ({record.name}): store it with that one."
        )
    name = f"{fingerprint}.safetensors"
    if not artifacts.MOMENTS_FILE.fullmatch(name):
        raise MomentsError(
            f"'{fingerprint}' is no fingerprint of data, which is up to 128 letters and digits."
        )
    if dataset is None and fingerprint == record.spec.dataset.fingerprint:
        dataset = record.spec.dataset.name
    return MomentsRecord(
        module_id=record.id,
        fingerprint=fingerprint,
        dataset=dataset,
        classes=moments.train.classes,
        examples=moments.train.examples + moments.validation.examples,
        dimension=moments.train.dimension,
        sha256=sha256,
        size_bytes=size_bytes,
        path=f"{FOLDER}/{name}",
        seconds=moments.seconds,
        created_at=utc_now(),
    )


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"Cannot read {path}: {error.strerror or error}. Measure the module again "
        "('modkernel advise')."
    )
