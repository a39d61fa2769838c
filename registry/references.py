"""What people write for a module: an id, a prefix of one, or a name with a version or an alias."""

from __future__ import annotations

import re
from difflib import get_close_matches

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy import select

from modkernel.errors import AmbiguousError, NotFoundError
from modkernel.registry.backends import Stores
from modkernel.registry.modules import MODULE_TAG
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import ModuleRow
from modkernel.registry.tracking.artifacts import is_absent

PREFIX = re.compile(r"[0-9a-f]{6,64}")
FORMS = "an id or at least 6 digits of it, NAME, NAME@ALIAS or NAME/VERSION"


def resolve(stores: Stores, reference: str) -> ModuleRecord:
    """The ready module that a reference names now.

    Versions and aliases are read from MLflow at this moment; the record that is returned names
    the module by its id, so a later promotion changes nothing about it.

    Raises:
        NotFoundError: no ready module answers to it.
        AmbiguousError: a prefix of several ids.
    """
    name, at, alias = reference.partition("@")
    if at:
        return _of_version(stores, reference, _by_alias(stores, name, alias))
    name, slash, version = reference.partition("/")
    if slash:
        return _of_version(stores, reference, _by_version(stores, name, version))
    newest = _newest(stores, reference)
    if newest is not None:
        return newest
    if PREFIX.fullmatch(reference):
        return _by_prefix(stores, reference)
    raise _unknown(stores, reference)


def _newest(stores: Stores, name: str) -> ModuleRecord | None:
    query = (
        select(ModuleRow)
        .where(ModuleRow.name == name, ModuleRow.state == "READY")
        .order_by(ModuleRow.created_at.desc(), ModuleRow.version.desc())
    )
    with stores.database.reading() as session:
        row = session.scalars(query.limit(1)).first()
        return None if row is None else queries.record_of(row)


def _by_prefix(stores: Stores, prefix: str) -> ModuleRecord:
    query = select(ModuleRow.id).where(ModuleRow.id.startswith(prefix)).limit(3)
    with stores.database.reading() as session:
        ids = session.scalars(query).all()
    if len(ids) > 1:
        raise AmbiguousError(
            f"'{prefix}' begins the ids of several modules ({', '.join(i[:12] for i in ids)}…): "
            "write more digits."
        )
    if not ids:
        raise NotFoundError(f"No module's id begins with '{prefix}': see 'modkernel modules list'.")
    return queries.required(stores.database, ids[0])


def _by_alias(stores: Stores, name: str, alias: str) -> ModelVersion:
    try:
        return stores.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if not is_absent(error):
            raise
        try:
            there = stores.client.get_registered_model(name).aliases
        except MlflowException:
            raise _unknown(stores, name) from error
        known = f"it has {', '.join(sorted(there))}" if there else "it has no alias yet"
        raise NotFoundError(
            f"'{name}' has no alias '{alias}' in MLflow ({known}): set it on the version's page, "
            f"or name a version as {name}/1."
        ) from error


def _by_version(stores: Stores, name: str, version: str) -> ModelVersion:
    try:
        return stores.client.get_model_version(name, version)
    except MlflowException as error:
        if not is_absent(error):
            raise
        if _newest(stores, name) is None:
            raise _unknown(stores, name) from error
        raise NotFoundError(
            f"'{name}' has no version '{version}' in MLflow: see 'modkernel modules list'."
        ) from error


def _of_version(stores: Stores, reference: str, version: ModelVersion) -> ModuleRecord:
    module_id = version.tags.get(MODULE_TAG)
    if module_id is None:
        raise NotFoundError(
            f"'{reference}' is version {version.version} of a model that modkernel did not store: "
            "use one that 'modkernel modules list' shows."
        )
    return queries.required(stores.database, module_id)


def _unknown(stores: Stores, name: str) -> NotFoundError:
    with stores.database.reading() as session:
        names = session.scalars(select(ModuleRow.name).distinct()).all()
    close = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return NotFoundError(
        f"No module answers to '{name}': write {FORMS}; 'modkernel modules list' shows them.{hint}"
    )
