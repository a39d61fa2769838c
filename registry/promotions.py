"""Promotions: people set aliases in MLflow, the registry follows and keeps the history."""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from sqlalchemy import select

from modkernel.errors import NotFoundError, SpecError
from modkernel.registry.backends import Stores
from modkernel.registry.modules import MODULE_TAG
from modkernel.registry.records import PromotionRecord
from modkernel.registry.sql.claims import INSERT
from modkernel.registry.sql.tables import ModuleRow, PromotionRow, utc_now
from modkernel.registry.tracking.artifacts import is_absent

PAGE = 100


def promote(stores: Stores, name: str, alias: str, version: int) -> PromotionRecord:
    """Point an alias of a registered model to a version, in MLflow, and record it.

    Raises:
        NotFoundError: there is no such version.
        SpecError: MLflow does not take the alias.
    """
    try:
        ours = MODULE_TAG in stores.client.get_model_version(name, str(version)).tags
    except MlflowException as error:
        if not is_absent(error):
            raise
        ours = False
    if not ours:
        raise NotFoundError(
            f"'{name}' has no version {version} that modkernel stored: see 'modkernel modules "
            "list'."
        )
    try:
        stores.client.set_registered_model_alias(name, alias, str(version))
    except MlflowException as error:
        raise SpecError(
            f"MLflow does not take '{alias}' as an alias: use letters, digits, '_' and '-', but "
            "not 'latest' or 'v1'."
        ) from error
    sync_promotions(stores)
    return next(p for p in reversed(promotions(stores, name)) if p.alias == alias)


def sync_promotions(stores: Stores) -> tuple[PromotionRecord, ...]:
    """Compare MLflow's aliases with the last ones seen and record what changed.

    Any number of processes may do this at once: a change is recorded once.

    Returns:
        The changes that this call recorded.
    """
    now = _aliases(stores)
    with stores.database.reading() as session:
        last = {
            (row.name, row.alias): (row.serial, row.version, row.module_id)
            for row in session.scalars(select(PromotionRow).order_by(PromotionRow.serial))
        }
    changes = []
    for key in sorted(now.keys() | last.keys()):
        serial, *seen = last.get(key, (0, None, None))
        target = now.get(key, (None, None))
        if tuple(seen) != target and _record(stores, key, serial + 1, target):
            changes.append(
                PromotionRecord(
                    name=key[0],
                    alias=key[1],
                    version=target[0],
                    module_id=target[1],
                    seen_at=utc_now(),
                )
            )
    return tuple(changes)


def promotions(stores: Stores, name: str | None = None) -> tuple[PromotionRecord, ...]:
    """The history of aliases, oldest first."""
    query = select(PromotionRow).order_by(PromotionRow.id)
    if name is not None:
        query = query.where(PromotionRow.name == name)
    with stores.database.reading() as session:
        return tuple(
            PromotionRecord(
                name=row.name,
                alias=row.alias,
                version=row.version,
                module_id=row.module_id,
                seen_at=row.seen_at,
            )
            for row in session.scalars(query)
        )


def _aliases(stores: Stores) -> dict[tuple[str, str], tuple[int | None, str | None]]:
    """(name, alias) -> (version, module id), for our own models, as MLflow has it now."""
    with stores.database.reading() as session:
        ours = set(session.scalars(select(ModuleRow.name).distinct()))
    found: dict[tuple[str, str], tuple[int | None, str | None]] = {}
    token = None
    while True:
        page = stores.client.search_registered_models(max_results=PAGE, page_token=token)
        for model in page:
            if model.name in ours:
                for alias, version in model.aliases.items():
                    found[model.name, alias] = (int(version), _module(stores, model.name, version))
        token = page.token
        if not token:
            return found


def _module(stores: Stores, name: str, version: str) -> str | None:
    return stores.client.get_model_version(name, version).tags.get(MODULE_TAG)


def _record(
    stores: Stores, key: tuple[str, str], serial: int, target: tuple[int | None, str | None]
) -> bool:
    insert = INSERT[stores.database.engine.dialect.name](PromotionRow)
    statement = (
        insert.values(
            name=key[0],
            alias=key[1],
            serial=serial,
            version=target[0],
            module_id=target[1],
            seen_at=utc_now(),
        )
        .on_conflict_do_nothing(index_elements=["name", "alias", "serial"])
        .returning(PromotionRow.id)
    )
    with stores.database.writing() as session:
        return session.execute(statement).first() is not None
