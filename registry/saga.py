"""The saga of storing a module: each step can be repeated, and tells how far it came.

Row PENDING -> run -> figures and metrics -> files -> hashes verified -> version tagged with the
module's id -> row READY. A process that dies in between leaves a PENDING row; storing the same
module again, or `Registry.repair`, resumes from what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modkernel.errors import ArtifactError, NotFoundError
from modkernel.modules.stored import WEIGHTS_FILE, StoredModule, read_module
from modkernel.registry import flavor
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import InterfaceRow, LineageRow, ModuleRow
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.fields import metrics_of
from modkernel.registry.tracking.models import source_of
from modkernel.spec import DatasetSpec
from modkernel.training.report import TrainReport


def begin(
    backends: Backends,
    stored: StoredModule,
    name: str,
    report: TrainReport,
    run_id: str | None,
    dataset: DatasetSpec | None,
    pairs: str | None,
) -> ModuleRecord:
    """Write the PENDING row, or take up the one that an attempt before left.

    Raises:
        NotFoundError: the module stands on one that is not in the registry.
    """
    spec = stored.spec
    with backends.database.writing() as session:
        row = session.get(ModuleRow, stored.id)
        if row is None:
            row = _new_row(stored, name)
            under: Sequence[str] = ()
            if spec.interface.upstream != spec.preprocessing.id:
                under = queries.lineage_ids(session, spec.interface.upstream)
                if not under:
                    raise NotFoundError(
                        f"{name} stands on module {spec.interface.upstream[:12]}, which is not in "
                        "the registry: store that one first."
                    )
            row.lineage = [
                LineageRow(position=position, member_id=member_id)
                for position, member_id in enumerate((*under, stored.id), start=1)
            ]
            session.add(row)
        row.state = "PENDING"
        row.source = str(stored.folder.absolute())
        row.report = report.model_dump_json()
        row.metrics = metrics_of(report)
        row.seconds = report.seconds
        row.dataset = None if dataset is None else dataset.canonical_json()
        row.pairs = pairs
        row.run_id = run_id or row.run_id
        session.flush()
        return queries.record_of(row)


def finish(backends: Backends, record: ModuleRecord, figures: Mapping[str, bytes]) -> ModuleRecord:
    """Take a PENDING module through the remaining steps.

    Raises:
        ArtifactError: its bytes are neither in MLflow, nor where they came from, nor in the cache.
    """
    runs = backends.runs
    if record.run_id is None:
        run_id = runs.start_module(record.name, record.spec)
        record = update(backends, record, run_id=run_id)
    assert record.run_id is not None
    runs.log_figures(record.run_id, figures)
    runs.log_metrics(record.run_id, {f"final.{k}": v for k, v in record.metrics.items()})
    record = ensure_model(backends, record)
    return update(backends, ensure_version(backends, record), state="READY")


def ensure_model(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """The record with the MLflow model that holds its verified bytes, logged if there is none.

    Raises:
        ArtifactError: there is none and the bytes are not at hand either.
    """
    models, intact = backends.models, None
    for model_id in models.logged(record):
        if intact is None and is_intact(backends, model_id, record):
            intact = model_id
        else:
            models.delete(model_id)
    if intact is None:
        chain = queries.chain(backends.database, record.id)[:-1]

        def written(files: Mapping[str, str]) -> None:
            # Before the first byte is in MLflow's store, which others may write to.
            nonlocal record
            record = update(backends, record, files=dict(files))

        stored = bytes_at_hand(backends, record)
        intact = models.log(record, stored, chain, flavor, written)
        artifacts.check_model(backends.client, intact, record)
    return update(backends, record, model_id=intact)


def ensure_version(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """The record with the version of its registered model, made if there is none.

    A version whose model is gone gives its aliases to the new one.
    """
    models, stale = backends.models, []
    for version in models.versions(record):
        if version.source == source_of(record):  # a search leaves out its model_id
            return update(backends, record, version=int(version.version))
        stale.append(version)
    chain = queries.chain(backends.database, record.id)[:-1]
    made = models.add_version(record, chain, report_of(backends, record.id))
    for version in stale:
        models.replace_version(version, made)
    return update(backends, record, version=int(made.version))


def bytes_at_hand(backends: Backends, record: ModuleRecord) -> StoredModule:
    """The module's files where it was stored from, or in the private cache.

    Raises:
        ArtifactError: neither holds them intact.
    """
    with backends.database.reading() as session:
        source = Path(session.get_one(ModuleRow, record.id).source)
    for folder in (source, modules_cache(backends) / record.id):
        try:
            return read_module(folder, record.weights_sha256, record.spec_sha256)
        except ArtifactError:
            continue
    raise ArtifactError(
        f"The bytes of module {record.short_id} ({record.name}) are not in MLflow, not in "
        f"{source} and not in the cache: train it again."
    )


def is_intact(backends: Backends, model_id: str, record: ModuleRecord) -> bool:
    """Whether an MLflow model is as it was written for a module; its files are hashed.

    Raises:
        StoreError: they cannot be read now, so it is not known.
    """
    try:
        artifacts.check_model(backends.client, model_id, record)
    except ArtifactError:
        return False
    return True


def update(backends: Backends, record: ModuleRecord, **changes: object) -> ModuleRecord:
    """Set columns of a module's row."""
    with backends.database.writing() as session:
        row = session.get_one(ModuleRow, record.id)
        for name, value in changes.items():
            setattr(row, name, value)
        session.flush()
        return queries.record_of(row)


def report_of(backends: Backends, module_id: str) -> TrainReport:
    """A module's train report."""
    with backends.database.reading() as session:
        return TrainReport.model_validate_json(session.get_one(ModuleRow, module_id).report)


def modules_cache(backends: Backends) -> Path:
    """Folder of the private copies, one folder a module."""
    return backends.settings.cache_dir / "modules"


def _new_row(stored: StoredModule, name: str) -> ModuleRow:
    spec = stored.spec
    return ModuleRow(
        id=stored.id,
        recipe_digest=stored.spec_sha256,
        name=name,
        kind=spec.kind,
        weights_sha256=stored.weights_sha256,
        spec_sha256=stored.spec_sha256,
        size_bytes=(stored.folder / WEIGHTS_FILE).stat().st_size,
        spec=spec.canonical_json(),
        interface=InterfaceRow(
            upstream=spec.interface.upstream,
            takes=queries.shape_text(spec.interface.takes),
            gives=queries.shape_text(spec.interface.gives),
            dtype=spec.interface.dtype,
            kernel=spec.interface.kernel.name,
        ),
    )
