"""The saga of storing a module: each step can be repeated, and tells how far it came.

Row PENDING -> run -> figures and metrics -> files -> hashes verified -> version tagged with the
module's id -> row READY. A process that dies in between leaves a PENDING row; storing the same
module again, or `Registry.repair`, resumes from what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import func, select

from modkernel.errors import ArtifactError, NotFoundError
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE, StoredModule, read_module
from modkernel.registry import flavor
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord, Uses
from modkernel.registry.sql import queries
from modkernel.registry.sql.find import traits_of
from modkernel.registry.sql.tables import InterfaceRow, LineageRow, ModuleRow, later_than
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.cards import module_card
from modkernel.registry.tracking.fields import metrics_of
from modkernel.registry.tracking.models import fit_version
from modkernel.registry.tracking.tags import module_tags
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
    with backends.writing() as session:
        row = session.get(ModuleRow, stored.id)
        if row is None:
            last = select(func.max(ModuleRow.created_at)).where(ModuleRow.name == name)
            row = _new_row(stored, name, later_than(session.scalar(last)))
            # What several upstreams share is there once, where the first of them has it.
            under: dict[str, None] = {}
            for upstream in spec.interface.stands_on:
                if upstream == spec.preprocessing.id:
                    continue
                found = queries.lineage_ids(session, upstream)
                if not found or queries.going(session, found):
                    raise NotFoundError(
                        f"{name} stands on module {upstream[:12]}, which is not in the registry: "
                        "store that one first."
                    )
                under |= dict.fromkeys(found)
            row.lineage = [
                LineageRow(position=position, member_id=member_id)
                for position, member_id in enumerate((*under, stored.id), start=1)
            ]
            session.add(row)
        row.state = "PENDING"
        row.source = _relative(stored.folder.absolute(), backends.settings.home)
        row.report = report.model_dump_json()
        row.metrics = metrics_of(report)
        row.seconds = report.seconds
        row.dataset = None if dataset is None else dataset.canonical_json()
        row.pairs = pairs
        row.run_id = run_id or row.run_id
        if report.evaluation is not None:
            row.accuracy = report.evaluation.accuracy
            # What several modules reach together tells nothing of one of them.
            below = (
                None
                if spec.interface.joins
                else session.get(ModuleRow, spec.interface.stands_on[0])
            )
            if below is not None and row.accuracy > (below.accuracy or 0):
                below.accuracy = row.accuracy
        session.flush()
        return queries.record_of(row)


def finish(backends: Backends, record: ModuleRecord, figures: Mapping[str, bytes]) -> ModuleRecord:
    """Take a PENDING module through the remaining steps.

    Raises:
        ArtifactError: its bytes are nowhere; see `bytes_at_hand`.
    """
    record = ensure_run(backends, record)
    assert record.run_id is not None
    backends.runs.log_figures(record.run_id, figures)
    record = ensure_model(backends, record)
    return update(backends, ensure_version(backends, record), state="READY")


def ensure_run(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """The record with its MLflow run: brought back if it was deleted, made if it is gone."""
    if record.run_id is not None and backends.runs.ensure(record.run_id):
        return record
    history = report_of(backends, record.id).history
    epochs = [line.event(len(history)) for line in history]
    run_id = backends.runs.start_module(record.name, record.spec, epochs=epochs)
    return update(backends, record, run_id=run_id)


def ensure_model(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """The record with the MLflow model that holds its verified bytes, logged if there is none.

    They are on the disk, where that is one of this machine. Its run shows what it reached.

    Raises:
        ArtifactError: there is none and the bytes are not at hand either.
    """
    models, intact, unfit = backends.models, None, []
    reached = {f"final.{name}": value for name, value in record.metrics.items()}
    for model_id in models.logged(record):
        if intact is None and is_intact(backends, model_id, record):
            intact = model_id
        else:
            unfit.append(model_id)
    if intact is None:
        chain = queries.chain(backends.database, record.id)[:-1]

        def written(files: Mapping[str, str]) -> None:
            # Before the first byte is in MLflow's store, which others may write to.
            nonlocal record
            record = update(backends, record, files=dict(files))

        stored = bytes_at_hand(backends, record)
        save = partial(flavor.save_model, stored=stored, chain=chain, written=written)
        backends.check_claim()
        intact = models.log(record, record.kind, save, reached)
        check(backends, intact, record)
    else:
        backends.runs.log_metrics(record.run_id or "", reached)
    artifacts.flush_model(backends.client, intact)
    # First of all: where another has the claim by now, one of the others may be its.
    record = update(backends, record, model_id=intact)
    for model_id in unfit:
        backends.discard("model", model_id, record.name)
    return record


def ensure_version(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """The record with the version of its registered model, made if there is none.

    Of several one is left, and has the aliases of all: those whose model is gone go, and those of
    an owner that had lost its claim. Aliases that went with a version that a person deleted are
    set again.
    """
    models = backends.models
    versions = models.versions(record)
    version = fit_version(record, versions)
    is_new = version is None
    if version is None:
        page = page_of(backends, record, queries.uses(backends.database, record.id))
        backends.check_claim()
        version = models.add_version(record, *page)
    record = update(backends, record, version=int(version.version))
    models.replace_versions(versions, version)
    backends.bring_back_aliases(record, version, is_new)
    return record


def page_of(backends: Backends, record: ModuleRecord, uses: Uses) -> tuple[dict[str, str], str]:
    """The tags and the card of a module's version, as they are now, given what uses it."""
    chain = queries.chain(backends.database, record.id)[:-1]
    figures = backends.runs.figures(record.run_id or "")
    card = module_card(record, chain, report_of(backends, record.id), figures, uses)
    return module_tags(record, chain, uses), card


def tags_of(backends: Backends, record: ModuleRecord) -> dict[str, str]:
    """The tags of a module's version, as they are now."""
    chain = queries.chain(backends.database, record.id)[:-1]
    return module_tags(record, chain, queries.uses(backends.database, record.id))


def restore(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """A READY module whose model in MLflow is damaged or gone: READY again, or LOST."""
    try:
        bytes_at_hand(backends, record)
    except ArtifactError:
        return update(backends, record, state="LOST")
    return ensure_version(backends, ensure_model(backends, renew_run(backends, record)))


def renew_run(backends: Backends, record: ModuleRecord) -> ModuleRecord:
    """The record of a stored module with an MLflow run, which has ended."""
    renewed = ensure_run(backends, record)
    if renewed.run_id != record.run_id:
        backends.runs.finish(renewed.run_id or "")
    return renewed


def bytes_at_hand(backends: Backends, record: ModuleRecord) -> StoredModule:
    """The module's files: where it was stored from, in the private cache, or what MLflow has left.

    Raises:
        ArtifactError: none of these has them intact.
        StoreError: MLflow's cannot be read now.
    """
    with backends.database.reading() as session:
        # Within the home, which may have been moved since, or a path of its own.
        source = backends.settings.home / session.get_one(ModuleRow, record.id).source
    for folder in (source, modules_cache(backends) / record.id, _left_behind(backends, record)):
        try:
            return read_module(folder, record.weights_sha256, record.spec_sha256)
        except ArtifactError:
            continue
    try:
        # Other files may be damaged, or be among them, and these two be whole.
        return artifacts.bring_module(
            backends.client,
            record.model_id or "",
            modules_cache(backends),
            (record.id, record.weights_sha256, record.spec_sha256),
        )
    except ArtifactError:
        raise ArtifactError(
            f"The bytes of module {record.short_id} ({record.name}) are not in MLflow, not in "
            f"{source} and not in the cache: train it again."
        ) from None


def _left_behind(backends: Backends, record: ModuleRecord) -> Path:
    """Where MLflow kept a model's files: it leaves them there when it forgets the model."""
    kept = f"models/{record.model_id or 'none'}/artifacts"
    found = backends.settings.artifact_root.glob(f"*/{kept}")
    return next(found, backends.settings.artifact_root / kept)


def is_intact(backends: Backends, model_id: str, record: ModuleRecord) -> bool:
    """Whether an MLflow model is as it was written for a module; its files are hashed.

    Raises:
        StoreError: they cannot be read now, so it is not known.
    """
    try:
        check(backends, model_id, record)
    except ArtifactError:
        return False
    return True


def check(backends: Backends, model_id: str, record: ModuleRecord) -> None:
    """Check an MLflow model of a module: its files, and that it names those below where they are.

    Raises:
        ArtifactError: a file is missing, altered or not ours, or a module below is elsewhere by
            now.
        StoreError: a file cannot be read now.
    """
    own = {WEIGHTS_FILE: record.weights_sha256, SPEC_FILE: record.spec_sha256}
    below = [one.model_id for one in queries.chain(backends.database, record.id)[:-1]]
    artifacts.check_model(backends.client, model_id, (record.files or {}) | own, below)


def update(backends: Backends, record: ModuleRecord, **changes: object) -> ModuleRecord:
    """Set columns of a module's row.

    Raises:
        NotFoundError: it was deleted meanwhile.
    """
    with backends.writing() as session:
        row = session.get(ModuleRow, record.id)
        if row is None:
            raise NotFoundError(f"Module {record.short_id} ({record.name}) was deleted meanwhile.")
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


def _relative(folder: Path, home: Path) -> str:
    return str(folder.relative_to(home) if folder.is_relative_to(home) else folder)


def _new_row(stored: StoredModule, name: str, now: datetime) -> ModuleRow:
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
            takes=queries.shape_text(spec.interface.takes),
            gives=queries.shape_text(spec.interface.gives),
            dtype=spec.interface.dtype,
            kernel=spec.interface.kernel.name,
        ),
        created_at=now,
        traits=traits_of(spec, name, now),
    )
