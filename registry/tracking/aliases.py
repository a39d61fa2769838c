"""All aliases at once, from the database of MLflow where that can be read.

MLflow's client gives them with all else that it knows of each name: where there are thousands, that
takes its server many seconds of processor time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag, SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import ColumnElement, and_, create_engine, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.pool import NullPool

from modkernel.registry.records import Identity, ModuleRecord, NetworkRecord
from modkernel.registry.settings import Settings
from modkernel.registry.tracking.errors import translated

FIRST_EXPERIMENT = "0"
Alias = tuple[str, str]
"""Name of a registered model, and an alias of it."""
Target = tuple[int | None, str | None]
"""Version that an alias points to, and the module or network that it is; none where removed."""


def stored_aliases(
    client: MlflowClient, settings: Settings, registry: Identity
) -> dict[Alias, Target] | None:
    """What each alias of every registered model points to, from MLflow's own tables.

    Args:
        client: of MLflow.
        settings: of the home; where MLflow is a server and they name its database
            (`mlflow_store`), that is read.
        registry: whose modules and networks are named; a version of another's is of none.

    Returns:
        None where only a server is known, or the database that the settings name is not its own.

    Raises:
        StoreError: the database that the settings name does not answer.
    """
    alias: Any = SqlRegisteredModelAlias  # MLflow does not tell the types of its columns.
    tag: Any = aliased(SqlModelVersionTag)
    maker: Any = aliased(SqlModelVersionTag)

    def is_its(one: Any, *keys: str) -> ColumnElement[bool]:
        return and_(
            one.workspace == alias.workspace,
            one.name == alias.name,
            one.version == alias.version,
            one.key.in_(keys),
        )

    query = (
        select(alias.name, alias.alias, alias.version, tag.value, maker.value)
        .outerjoin(tag, is_its(tag, ModuleRecord.tag, NetworkRecord.tag))
        .outerjoin(maker, is_its(maker, Identity.tag))
        .where(alias.workspace == DEFAULT_WORKSPACE_NAME)
    )
    with _session(client, settings) as session:
        if session is None:
            return None
        found: dict[Alias, Target] = {}
        for name, known, version, target, made_by in session.execute(query):
            own = registry.made({} if made_by is None else {Identity.tag: made_by})
            found[name, known] = int(version), target if own else None
        return found


@contextmanager
def _session(client: MlflowClient, settings: Settings) -> Iterator[Session | None]:
    store = client._get_registry_client().store
    if isinstance(store, SqlAlchemyStore):
        with store.ManagedSessionMaker() as session:
            yield session
    elif "mlflow_store" in settings.model_fields_set:
        # By default it is a file of this home, which on another machine is not the server's.
        with translated(settings.mlflow_store):
            engine = create_engine(settings.mlflow_store, poolclass=NullPool)
            with Session(engine) as session:
                yield session if _is_of(client, session) else None
    else:
        yield None


def _is_of(client: MlflowClient, session: Session) -> bool:
    """Whether a database is the server's: settings may name that of another server.

    Both then tell the same birth, in milliseconds, of the experiment that every store begins with.
    """
    found: Any = SqlExperiment
    query = select(found.creation_time).where(found.experiment_id == int(FIRST_EXPERIMENT))
    return bool(session.scalar(query) == client.get_experiment(FIRST_EXPERIMENT).creation_time)
