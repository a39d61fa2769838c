"""Run by alembic: on the connection that `sql.engine` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from modkernel.registry.sql.engine import VERSION_TABLE
from modkernel.registry.sql.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
