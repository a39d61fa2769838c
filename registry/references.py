"""What people write for a module: an id, a prefix of one, or a name with a version or an alias."""

from __future__ import annotations

from mlflow.entities.model_registry import ModelVersion

from modkernel.errors import NotFoundError
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.tracking.models import MODULE_TAG


def resolve(backends: Backends, reference: str) -> ModuleRecord:
    """What a reference names at this moment; see `Modules.resolve`."""
    name, at, alias = reference.partition("@")
    if at:
        return by_alias(backends, name, alias)
    name, slash, version = reference.partition("/")
    if slash:
        return by_version(backends, name, version)
    return queries.newest_or_prefix(backends.database, reference)


def by_alias(backends: Backends, name: str, alias: str) -> ModuleRecord:
    """The ready module that an alias of a name points to in MLflow."""
    try:
        version = backends.models.version_by_alias(name, alias)
    except NotFoundError as error:
        try:
            aliases = backends.models.aliases(name)
        except NotFoundError:
            raise queries.unknown(backends.database, name) from error
        known = f"it has {', '.join(sorted(aliases))}" if aliases else "it has none"
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
        if queries.newest(backends.database, name) is None:
            raise queries.unknown(backends.database, name) from error
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
    try:
        return queries.required(backends.database, module_id)
    except NotFoundError:
        if queries.by_id(backends.database, module_id) is None:
            refuse_others(backends, reference, version)
        raise


def refuse_others(backends: Backends, reference: str, version: ModelVersion) -> None:
    """Refuse a version of another registry at the same MLflow.

    Raises:
        NotFoundError: it is one.
    """
    if not backends.database.identity.made(version.tags):
        raise NotFoundError(
            f"'{reference}' is of another registry, which keeps its runs in the same MLflow: "
            "'modkernel bundle export' there and 'modkernel bundle import' here bring it."
        )
