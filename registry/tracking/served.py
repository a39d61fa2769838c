"""MLflow's database of a home, made ready for a server that keeps the artifacts for others.

A home of its own names the places of its artifacts on this disk, which mean nothing elsewhere.
"""

from __future__ import annotations

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from modkernel.errors import StoreError
from modkernel.registry.settings import Settings, masked
from modkernel.registry.tracking.client import open_mlflow
from modkernel.registry.tracking.errors import first_line
from modkernel.registry.tracking.moved import PLACES

PROXIED = "mlflow-artifacts:/"
"""How the places of artifacts begin that are reached through MLflow's server."""


def prepare_store(settings: Settings) -> None:
    """Make or check the database of the MLflow server that this home runs for others.

    What was stored in the home before is reached through the server from now on.

    Args:
        settings: of the home; its tracking URI is the server, which does not run yet.

    Raises:
        SchemaVersionError: the database has another schema version than this MLflow.
        StoreError: it cannot be reached or written.
    """
    store = settings.model_copy(update={"mlflow_uri": settings.mlflow_store})
    store.ensure_home()
    open_mlflow(store)
    forms = (f"{settings.artifact_root.as_uri()}/", f"{settings.artifact_root}/")
    engine = create_engine(settings.mlflow_store)
    try:
        with engine.begin() as connection:
            for table, column in PLACES.items():
                for local in forms:
                    connection.execute(
                        text(
                            f"UPDATE {table} SET {column} = :new || substr({column}, :rest) "
                            f"WHERE substr({column}, 1, :length) = :old"
                        ),
                        {
                            "new": PROXIED,
                            "rest": len(local) + 1,
                            "length": len(local),
                            "old": local,
                        },
                    )
    except SQLAlchemyError as error:
        raise StoreError(
            f"MLflow's database {masked(settings.mlflow_store)} cannot be written: "
            f"{first_line(error)}. Correct MODKERNEL_MLFLOW_STORE."
        ) from error
    finally:
        engine.dispose()
