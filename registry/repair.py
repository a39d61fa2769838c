"""Find what a crash, a person or a garbage collection left behind, and finish or undo it."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow.exceptions import MlflowException
from sqlalchemy import select

from modkernel.errors import ArtifactError
from modkernel.registry import moments
from modkernel.registry.backends import Stores, this_process
from modkernel.registry.modules import (
    MODULE_TAG,
    bytes_at_hand,
    ensure_model,
    ensure_version,
    finish,
    is_intact,
    update,
    versions_of,
)
from modkernel.registry.records import Action, ModuleRecord, Problem
from modkernel.registry.sql import claims, queries
from modkernel.registry.sql.tables import ClaimRow, LineageRow, ModuleRow, NetworkModuleRow
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.artifacts import is_absent
from modkernel.registry.tracking.runs import experiment, network_of


def verify(stores: Stores) -> tuple[Problem, ...]:
    """All that is wrong with the stored modules; every byte in MLflow's store is hashed.

    A module that a live process is storing at this moment is no problem.
    """
    problems = [
        _problem(
            "unfinished",
            record,
            "was being stored when its process died: 'modkernel repair' finishes or undoes it.",
        )
        for record in queries.in_state(stores.database, "PENDING")
        if not _is_claimed(stores, record.id)
    ]
    for record in queries.in_state(stores.database, "READY"):
        try:
            assert record.model_id is not None
            artifacts.check(
                stores.client, record.model_id, record.weights_sha256, record.spec_sha256
            )
        except ArtifactError as error:
            problems.append(_problem("artifact", record, f"has lost its bytes: {error}"))
            continue
        if not _has_version(stores, record):
            problems.append(
                _problem(
                    "version",
                    record,
                    f"has no version {record.version} in MLflow any more: 'modkernel "
                    "repair' registers it again.",
                )
            )
        problems += [
            _problem(
                "moments",
                record,
                f"has lost its moments of data {there.fingerprint[:12]}: 'modkernel repair' "
                "restores or drops them, and 'modkernel advise' computes them again.",
            )
            for there in moments.moments_of(stores, record.id)
            if not moments.is_intact(stores, record, there)
        ]
    problems += [
        _problem("lost", record, "is lost: its bytes are nowhere. Train it again.")
        for record in queries.in_state(stores.database, "LOST")
    ]
    return tuple(problems)


def repair(stores: Stores) -> tuple[Action, ...]:
    """Finish or undo what is unfinished, restore bytes from the cache, register versions again.

    What cannot be mended is marked LOST, so that it is never reused and can be trained again; it
    is READY again when its bytes are back, such as those of a disk that was not mounted.
    Running it twice does nothing the second time.
    """
    actions = []
    for problem in verify(stores):
        claim = claims.take(
            stores.database, problem.module_id, this_process(), stores.settings.lease_seconds
        )
        if claim is None:
            continue
        with claim.renewed():
            record = queries.by_id(stores.database, problem.module_id)
            if record is None:
                continue
            if record.state == "LOST":
                if is_intact(stores, record.model_id or "", record):
                    record = _register(stores, update(stores, record, state="READY"))
                    actions.append(_action("restored", record, "has its bytes again."))
            elif record.state == "PENDING":
                actions.append(_finish_or_undo(stores, record))
            elif problem.kind == "artifact":
                actions.append(_restore(stores, record))
            elif problem.kind == "version":
                record = _register(stores, record)
                actions.append(_action("registered", record, f"is version {record.version} again."))
            # Its MLflow model may be another by now.
            ready = queries.by_id(stores.database, record.id)
            if ready is not None and ready.state == "READY":
                actions += _mend_moments(stores, ready)
    return tuple(actions)


def _mend_moments(stores: Stores, record: ModuleRecord) -> Iterator[Action]:
    for there, restored in moments.mend(stores, record):
        kind = "restored" if restored else "dropped"
        text = "has" if restored else "has no longer"
        yield _action(kind, record, f"{text} its moments of data {there.fingerprint[:12]}.")


def _finish_or_undo(stores: Stores, record: ModuleRecord) -> Action:
    try:
        finished = finish(stores, record, {})
    except ArtifactError:
        _undo(stores, record)
        return _action("undone", record, "was half-stored and its bytes are gone: removed.")
    assert finished.run_id is not None
    stores.client.set_terminated(finished.run_id, "FINISHED")
    return _action("finished", finished, f"is stored as version {finished.version}.")


def _restore(stores: Stores, record: ModuleRecord) -> Action:
    try:
        bytes_at_hand(stores, record)
    except ArtifactError:
        update(stores, record, state="LOST")
        return _action("lost", record, "is lost: its bytes are nowhere. Train it again.")
    chain = queries.chain(stores.database, record.id)[:-1]
    record = update(stores, record, model_id=ensure_model(stores, record, chain))
    record = _register(stores, record)
    return _action("restored", record, f"has its bytes again, as version {record.version}.")


def _register(stores: Stores, record: ModuleRecord) -> ModuleRecord:
    chain = queries.chain(stores.database, record.id)[:-1]
    return update(stores, record, version=ensure_version(stores, record, chain))


def _undo(stores: Stores, record: ModuleRecord) -> None:
    client = stores.client
    for version in versions_of(stores, record):
        client.delete_model_version(record.name, version.version)
    experiment_id = experiment(client, stores.settings, network_of(record.name))
    for model in client.search_logged_models([experiment_id], f"tags.{MODULE_TAG} = '{record.id}'"):
        client.delete_logged_model(model.model_id)
    if record.run_id is not None:
        client.set_terminated(record.run_id, "FAILED")
    with stores.database.writing() as session:
        row = session.get_one(ModuleRow, record.id)
        in_network = select(NetworkModuleRow).where(NetworkModuleRow.module_id == record.id)
        under_another = select(LineageRow).where(
            LineageRow.member_id == record.id, LineageRow.module_id != record.id
        )
        if any(session.scalars(query.limit(1)).first() for query in (in_network, under_another)):
            row.state = "LOST"
        else:
            session.delete(row)


def _has_version(stores: Stores, record: ModuleRecord) -> bool:
    try:
        version = stores.client.get_model_version(record.name, str(record.version))
    except MlflowException as error:
        if not is_absent(error):
            raise
        return False
    return bool(version.tags.get(MODULE_TAG) == record.id)


def _is_claimed(stores: Stores, module_id: str) -> bool:
    query = select(ClaimRow.key).where(
        ClaimRow.key == module_id, ClaimRow.expires_at >= stores.database.now
    )
    with stores.database.reading() as session:
        return session.scalars(query).first() is not None


def _problem(kind: str, record: ModuleRecord, text: str) -> Problem:
    message = f"Module {record.short_id} ({record.name}) {text}"
    return Problem.model_validate(
        {"kind": kind, "module_id": record.id, "name": record.name, "message": message}
    )


def _action(kind: str, record: ModuleRecord, text: str) -> Action:
    message = f"Module {record.short_id} ({record.name}) {text}"
    return Action.model_validate(
        {"kind": kind, "module_id": record.id, "name": record.name, "message": message}
    )
