"""The saga of storing a module: each step can be repeated, and tells how far it came.

Row PENDING -> run -> pictures and metrics -> files -> hashes verified -> version tagged with the
module's id -> row READY. Whoever dies in between leaves a PENDING row; storing the same module
again, or `modkernel.registry.repair`, goes on from what is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from modkernel.errors import ArtifactError, NotFoundError, SpecError
from modkernel.modules.stored import WEIGHTS_FILE, StoredModule, read_module
from modkernel.registry import flavor
from modkernel.registry.backends import Stores, this_process
from modkernel.registry.moments import keep_moments
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import claims, queries
from modkernel.registry.sql.tables import InterfaceRow, LineageRow, ModuleRow
from modkernel.registry.tracking import artifacts, runs
from modkernel.registry.tracking.cards import module_card, sentence
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.training.report import TrainReport

MODULE_TAG = "module_id"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def store(
    stores: Stores,
    folder: Path,
    *,
    name: str,
    report: TrainReport,
    run_id: str | None = None,
    figures: Mapping[str, bytes] | None = None,
) -> ModuleRecord:
    """Store a module; one that is stored already is returned as it is.

    Moments in its folder are kept once it is READY. Whoever dies in between loses only them: they
    are computed again when they are asked for.

    Raises:
        SpecError: the name cannot be a registered model's.
        ArtifactError: the files are missing, altered or not a module's.
        NotFoundError: the upstream is not in the registry.
        StoreError: the database or MLflow failed; storing again goes on from there.
    """
    if not NAME.fullmatch(name):
        raise SpecError(
            f"'{name}' cannot name a module: use lower-case letters, digits, '.', '_' and '-'."
        )
    stored = read_module(folder)
    record = _store_module(stores, stored, name, report, run_id, figures or {})
    measured = folder / MOMENTS_FILE
    if measured.is_file():
        keep_moments(stores, record, measured)
    return record


def _store_module(
    stores: Stores,
    stored: StoredModule,
    name: str,
    report: TrainReport,
    run_id: str | None,
    figures: Mapping[str, bytes],
) -> ModuleRecord:
    ready = _ready(stores, stored.id)
    if ready is not None:
        return ready
    lease = stores.settings.lease_seconds
    with claims.wait_for(stores.database, stored.id, this_process(), lease).kept():
        ready = _ready(stores, stored.id)  # another process may have stored it while we waited
        if ready is not None:
            return ready
        record = begin(stores, stored, name, report, run_id)
        return finish(stores, record, figures)


def begin(
    stores: Stores, stored: StoredModule, name: str, report: TrainReport, run_id: str | None
) -> ModuleRecord:
    """Write the PENDING row, or take up the one that an attempt before left."""
    spec = stored.spec
    with stores.database.writing() as session:
        row = session.get(ModuleRow, stored.id)
        if row is None:
            row = ModuleRow(
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
        row.run_id = run_id or row.run_id
        session.flush()
        return queries.record_of(row)


def finish(stores: Stores, record: ModuleRecord, figures: Mapping[str, bytes]) -> ModuleRecord:
    """Take a PENDING module through the remaining steps.

    Raises:
        ArtifactError: its bytes are neither in MLflow, nor where they came from, nor in the cache.
    """
    client = stores.client
    chain = queries.chain(stores.database, record.id)[:-1]
    if record.run_id is None:
        run_id = runs.start_run(client, stores.settings, record.name, record.spec)
        record = update(stores, record, run_id=run_id)
    assert record.run_id is not None
    runs.log_figures(client, record.run_id, figures)
    runs.log_metrics(client, record.run_id, {f"final.{k}": v for k, v in record.metrics.items()})
    record = update(stores, record, model_id=ensure_model(stores, record, chain))
    version = ensure_version(stores, record, chain)
    return update(stores, record, version=version, state="READY")


def ensure_model(stores: Stores, record: ModuleRecord, chain: Sequence[ModuleRecord]) -> str:
    """The id of the MLflow model that holds the module's verified bytes, logged if there is none.

    Raises:
        ArtifactError: there is none and the bytes are not at hand either.
    """
    client = stores.client
    experiment_id = runs.experiment(client, stores.settings, runs.network_of(record.name))
    kept = None
    for model in client.search_logged_models([experiment_id], f"tags.{MODULE_TAG} = '{record.id}'"):
        if kept is None and is_intact(stores, model.model_id, record):
            kept = str(model.model_id)
        else:
            client.delete_logged_model(model.model_id)
    if kept is not None:
        return kept
    stored = bytes_at_hand(stores, record)
    # These two know the tracking URI of the process only; and Model.log alone would put the model
    # into MLflow's default experiment.
    mlflow.set_tracking_uri(stores.settings.mlflow_uri)
    model = mlflow.initialize_logged_model(
        name=record.name.replace(".", "-"),
        source_run_id=record.run_id,
        experiment_id=experiment_id,
        tags={MODULE_TAG: record.id, "kind": record.kind},
    )
    Model.log(
        artifact_path=None,
        name=model.name,
        flavor=flavor,
        run_id=record.run_id,
        model_id=model.model_id,
        stored=stored,
        chain=chain,
    )
    artifacts.check(client, model.model_id, record.weights_sha256, record.spec_sha256)
    return str(model.model_id)


def ensure_version(stores: Stores, record: ModuleRecord, chain: Sequence[ModuleRecord]) -> int:
    """The version of the registered model that is this module's, made if there is none.

    A version whose model is gone gives its aliases to the new one.
    """
    client = stores.client
    source = f"models:/{record.model_id}"
    stale = []
    for version in versions_of(stores, record):
        if version.source == source:  # a search leaves out its model_id
            return int(version.version)
        stale.append(version)
    _ensure_registered_model(stores, record)
    assert record.run_id is not None
    report = TrainReport.model_validate_json(report_of(stores, record.id))
    figures = runs.figures_of(client, record.run_id)
    made = client.create_model_version(
        record.name,
        source=source,
        run_id=record.run_id,
        model_id=record.model_id,
        tags={
            MODULE_TAG: record.id,
            runs.RECIPE_TAG: record.recipe_digest,
            "kind": record.kind,
            "dataset": record.spec.dataset.name,
            "upstream": record.spec.interface.upstream,
        },
        description=module_card(record, chain, report, figures),
    )
    for version in stale:
        for alias in client.get_model_version(record.name, version.version).aliases:
            client.set_registered_model_alias(record.name, alias, made.version)
        client.delete_model_version(record.name, version.version)
    return int(made.version)


def versions_of(stores: Stores, record: ModuleRecord) -> Sequence[ModelVersion]:
    """The versions of the registered model that are tagged with the module's id."""
    return list(
        stores.client.search_model_versions(
            f"name = '{record.name}' and tags.{MODULE_TAG} = '{record.id}'"
        )
    )


def bytes_at_hand(stores: Stores, record: ModuleRecord) -> StoredModule:
    """The module's files where it was stored from, or in the private cache.

    Raises:
        ArtifactError: neither holds them intact.
    """
    for folder in (Path(source_of(stores, record.id)), modules_cache(stores) / record.id):
        try:
            return read_module(folder, record.weights_sha256, record.spec_sha256)
        except ArtifactError:
            continue
    raise ArtifactError(
        f"The bytes of module {record.short_id} ({record.name}) are not in MLflow, not in "
        f"{source_of(stores, record.id)} and not in the cache: train it again."
    )


def fetch(stores: Stores, record: ModuleRecord) -> StoredModule:
    """A module's files in the private cache, brought there through MLflow if need be.

    Raises:
        ArtifactError: the files are missing or altered in MLflow's store.
    """
    if record.model_id is None:
        raise ArtifactError(
            f"Module {record.short_id} ({record.name}) is {record.state}: run 'modkernel "
            "repair', or train it again."
        )
    return artifacts.fetch_module(
        stores.client,
        record.model_id,
        modules_cache(stores),
        (record.id, record.weights_sha256, record.spec_sha256),
    )


def update(stores: Stores, record: ModuleRecord, **changes: object) -> ModuleRecord:
    """Set columns of a module's row."""
    with stores.database.writing() as session:
        row = session.get_one(ModuleRow, record.id)
        for name, value in changes.items():
            setattr(row, name, value)
        session.flush()
        return queries.record_of(row)


def metrics_of(report: TrainReport) -> dict[str, float]:
    """The numbers of a report that a person compares modules by."""
    kept = next((line for line in report.history if line.epoch == report.best_epoch), None)
    values: dict[str, object] = {}
    if kept is not None:
        values |= {"objective": kept.objective, "validation": kept.validation}
    if report.evaluation is not None:
        values |= report.evaluation.model_dump(exclude={"confusion", "per_class"})
    return runs.numbers(values)


def modules_cache(stores: Stores) -> Path:
    """Folder of the private copies, one folder a module."""
    return stores.settings.cache_dir / "modules"


def source_of(stores: Stores, module_id: str) -> str:
    """The folder that a module was stored from."""
    with stores.database.reading() as session:
        return session.get_one(ModuleRow, module_id).source


def report_of(stores: Stores, module_id: str) -> str:
    """A module's train report as JSON."""
    with stores.database.reading() as session:
        return session.get_one(ModuleRow, module_id).report


def _ready(stores: Stores, module_id: str) -> ModuleRecord | None:
    record = queries.by_id(stores.database, module_id)
    return record if record is not None and record.state == "READY" else None


def is_intact(stores: Stores, model_id: str, record: ModuleRecord) -> bool:
    """Whether an MLflow model holds a module's bytes; they are hashed."""
    try:
        artifacts.check(stores.client, model_id, record.weights_sha256, record.spec_sha256)
    except ArtifactError:
        return False
    return True


def _ensure_registered_model(stores: Stores, record: ModuleRecord) -> None:
    try:
        stores.client.create_registered_model(
            record.name,
            tags={"network": runs.network_of(record.name), "kind": record.kind},
            description=sentence(record.name, record.spec),
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
