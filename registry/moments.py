"""Class moments of stored modules: a row, bytes beside the weights in MLflow, a private copy.

They can be computed again from the module and the data, so losing them costs a pass over the data
and no more: what is missing or altered is found by `verify` and dropped by `repair`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from sqlalchemy import select

from modkernel.errors import ArtifactError, MomentsError
from modkernel.registry.backends import Stores, this_process
from modkernel.registry.records import ModuleRecord, MomentsRecord
from modkernel.registry.sql import claims, queries
from modkernel.registry.sql.tables import MomentsRow, utc_now
from modkernel.registry.tracking import artifacts
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import read_moments

FOLDER = "moments"
"""In the folder of the module's MLflow model."""
FINGERPRINT = re.compile(r"[0-9A-Za-z_-]{1,128}")


def keep_moments(
    stores: Stores, record: ModuleRecord, file: Path, dataset: str | None = None
) -> MomentsRecord:
    """Keep a file of moments beside its module; those of the same data that are there are kept.

    The bytes are hashed where MLflow keeps them before the row appears. Of any number of
    processes that do this at once, the first one's moments stay and all get their record.

    Args:
        stores: Both stores.
        record: The module.
        file: As `modkernel.reuse.moments_file.write_moments` leaves it.
        dataset: Name of the data set; of the module's own data it is known.

    Raises:
        ArtifactError: the file is missing, altered or no file of moments, or the module's own
            bytes are gone.
        MomentsError: it holds the moments of another module.
        NotFoundError: the module is not ready.
    """
    sha256, size_bytes = _hashed(file)
    moments = read_moments(file, sha256)
    fingerprint = moments.train.fingerprint
    if moments.module_id != record.id:
        raise MomentsError(
            f"{file} holds the moments of module {moments.module_id[:12]}, not of "
            f"{record.short_id} ({record.name}): keep it with that one."
        )
    if not FINGERPRINT.fullmatch(fingerprint):
        raise MomentsError(
            f"'{fingerprint}' is no fingerprint of data, which is up to 128 letters and digits."
        )
    if dataset is None and fingerprint == record.spec.dataset.fingerprint:
        dataset = record.spec.dataset.name
    made = MomentsRecord(
        module_id=record.id,
        fingerprint=fingerprint,
        dataset=dataset,
        classes=moments.train.classes,
        examples=moments.train.examples + moments.validation.examples,
        dimension=moments.train.dimension,
        sha256=sha256,
        size_bytes=size_bytes,
        path=f"{FOLDER}/{fingerprint}.safetensors",
        seconds=moments.seconds,
        created_at=utc_now(),
    )
    # The key under which the module is stored and repaired: its MLflow model stays what it is.
    lease = stores.settings.lease_seconds
    with claims.wait_for(stores.database, record.id, this_process(), lease).kept():
        record = queries.required(stores.database, record.id)
        there = find(stores, record.id, fingerprint)
        if there is not None and is_intact(stores, record, there):
            return there
        _copy(file, copy_of(stores, made))
        _upload(stores, record, made)
        with stores.database.writing() as session:
            session.merge(MomentsRow(**made.model_dump()))
    return made


def moments(stores: Stores, record: ModuleRecord, fingerprint: str) -> ModuleMoments:
    """The moments of a module on the data of a fingerprint.

    Raises:
        MomentsError: there are none.
        ArtifactError: their bytes are missing or altered in MLflow's store.
    """
    there = find(stores, record.id, fingerprint)
    if there is None:
        raise MomentsError(none_of(record, f"the data of fingerprint {fingerprint[:12]}"))
    return load(stores, record, there)


def none_of(record: ModuleRecord, data: str) -> str:
    """The sentence for moments that nobody has computed."""
    return (
        f"Module {record.short_id} ({record.name}) has no moments of {data}: 'modkernel advise' "
        "with that data set computes them."
    )


def load(stores: Stores, record: ModuleRecord, there: MomentsRecord) -> ModuleMoments:
    """Moments out of the private cache, brought there through MLflow if they are not in it intact.

    Raises:
        ArtifactError: the bytes are missing or altered in MLflow's store.
    """
    path = copy_of(stores, there)
    if path.is_file():
        try:
            return read_moments(path, there.sha256)
        except ArtifactError:
            path.unlink(missing_ok=True)
    artifacts.download_file(stores.client, record.model_id or "", there.path, there.sha256, path)
    return read_moments(path, there.sha256)


def find(stores: Stores, module_id: str, fingerprint: str) -> MomentsRecord | None:
    """The record of a module's moments on the data of a fingerprint."""
    with stores.database.reading() as session:
        row = session.get(MomentsRow, (module_id, fingerprint))
        return None if row is None else record_of(row)


def moments_of(stores: Stores, module_id: str) -> tuple[MomentsRecord, ...]:
    """Records of all moments of a module, oldest first."""
    query = select(MomentsRow).where(MomentsRow.module_id == module_id)
    with stores.database.reading() as session:
        return tuple(map(record_of, session.scalars(query.order_by(MomentsRow.created_at))))


def record_of(row: MomentsRow) -> MomentsRecord:
    """A row as a record."""
    return MomentsRecord(**{name: getattr(row, name) for name in MomentsRecord.model_fields})


def is_intact(stores: Stores, record: ModuleRecord, there: MomentsRecord) -> bool:
    """Whether the bytes are in MLflow's store as they were kept; they are hashed."""
    try:
        artifacts.check_files(stores.client, record.model_id or "", {there.path: there.sha256})
    except ArtifactError:
        return False
    return True


def mend(stores: Stores, record: ModuleRecord) -> Iterator[tuple[MomentsRecord, bool]]:
    """Put moments that MLflow has lost there again, or drop them. Needs the module's claim.

    Yields:
        Each record of lost moments, and whether the private copy could restore them.
    """
    for there in moments_of(stores, record.id):
        if is_intact(stores, record, there):
            continue
        path = copy_of(stores, there)
        restored = path.is_file() and _hashed(path)[0] == there.sha256
        if restored:
            _upload(stores, record, there)
        else:
            path.unlink(missing_ok=True)
            with stores.database.writing() as session:
                session.delete(session.get_one(MomentsRow, (there.module_id, there.fingerprint)))
        yield there, restored


def copy_of(stores: Stores, there: MomentsRecord) -> Path:
    """Where the private copy is."""
    name = f"{there.fingerprint}.safetensors"
    return stores.settings.cache_dir / "moments" / there.module_id / name


def _upload(stores: Stores, record: ModuleRecord, there: MomentsRecord) -> None:
    """Copy the private copy to MLflow, and hash it there."""
    model_id = record.model_id or ""
    artifacts.location_of(stores.client, model_id)  # says what to do where there is none
    stores.client.log_model_artifact(model_id, str(copy_of(stores, there)), FOLDER)
    artifacts.check_files(stores.client, model_id, {there.path: there.sha256})


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid4().hex}")
    try:
        shutil.copyfile(file, temporary)
    except FileNotFoundError as error:
        raise _unreadable(file, error) from error
    os.replace(temporary, target)


def _hashed(path: Path) -> tuple[str, int]:
    """SHA-256 and number of bytes."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"Cannot read {path}: {error.strerror or error}. Measure the module again "
        "('modkernel advise')."
    )
