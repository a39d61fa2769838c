"""What people write for a module: an id, a prefix of one, or a name with a version or an alias."""

from __future__ import annotations

import re
from difflib import get_close_matches

from mlflow.entities.model_registry import ModelVersion
from sqlalchemy import select

from modkernel.errors import AmbiguousError, NotFoundError
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import ModuleRow
from modkernel.registry.tracking.models import MODULE_TAG

PREFIX = re.compile(r"[0-9a-f]{6,64}")
FORMS = "an id or at least 6 digits of it, NAME, NAME@ALIAS or NAME/VERSION"


def resolve(backends: Backends, reference: str) -> ModuleRecord:
    """What a reference names at this moment; see `Modules.resolve`."""
    name, at, alias = reference.partition("@")
    if at:
        return by_alias(backends, name, alias)
    name, slash, version = reference.partition("/")
    if slash:
        return by_version(backends, name, version)
    found = newest(backends, reference)
    if found is not None:
        return found
    if PREFIX.fullmatch(reference):
        return by_prefix(backends, reference)
    raise unknown(backends, reference)


def newest(backends: Backends, name: str) -> ModuleRecord | None:
    """The ready module of a name that was stored last."""
    query = (
        select(ModuleRow)
        .where(ModuleRow.name == name, ModuleRow.state == "READY")
        .order_by(ModuleRow.created_at.desc(), ModuleRow.version.desc())
    )
    with backends.database.reading() as session:
        row = session.scalars(query.limit(1)).first()
        return None if row is None else queries.record_of(row)


def by_prefix(backends: Backends, prefix: str) -> ModuleRecord:
    """The ready module whose id begins with some digits."""
    query = select(ModuleRow.id).where(ModuleRow.id.startswith(prefix)).limit(3)
    with backends.database.reading() as session:
        ids = session.scalars(query).all()
    if len(ids) > 1:
        raise AmbiguousError(
            f"'{prefix}' begins the ids of several modules ({', '.join(i[:12] for i in ids)}…): "
            "write more digits."
        )
    if not ids:
        raise NotFoundError(f"No module's id begins with '{prefix}': see 'modkernel modules list'.")
    return queries.required(backends.database, ids[0])


def by_alias(backends: Backends, name: str, alias: str) -> ModuleRecord:
    """The ready module that an alias of a name points to in MLflow."""
    try:
        version = backends.models.version_by_alias(name, alias)
    except NotFoundError as error:
        try:
            aliases = backends.models.aliases(name)
        except NotFoundError:
            raise unknown(backends, name) from error
        known = f"it has {', '.join(sorted(aliases))}" if aliases else "it has no alias yet"
        raise NotFoundError(
            f"'{name}' has no alias '{alias}' in MLflow ({known}): set it on the version's page, "
            f"or name a version as {name}/1."
        ) from error
    return _of_version(backends, f"{name}@{alias}", version)


def by_version(backends: Backends, name: str, number: str) -> ModuleRecord:
    """The ready module that is a version of a name in MLflow."""
    try:
        version = backends.models.version(name, number)
    except NotFoundError as error:
        if newest(backends, name) is None:
            raise unknown(backends, name) from error
        raise NotFoundError(
            f"'{name}' has no version '{number}' in MLflow: see 'modkernel modules list'."
        ) from error
    return _of_version(backends, f"{name}/{number}", version)


def _of_version(backends: Backends, reference: str, version: ModelVersion) -> ModuleRecord:
    module_id = version.tags.get(MODULE_TAG)
    if module_id is None:
        raise NotFoundError(
            f"'{reference}' is version {version.version} of a model that modkernel did not store: "
            "use one that 'modkernel modules list' shows."
        )
    return queries.required(backends.database, module_id)


def unknown(backends: Backends, name: str) -> NotFoundError:
    """The error for a name that nothing answers to, with the nearest one that does."""
    with backends.database.reading() as session:
        names = session.scalars(select(ModuleRow.name).distinct()).all()
    close = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return NotFoundError(
        f"No module answers to '{name}': write {FORMS}; 'modkernel modules list' shows them.{hint}"
    )
