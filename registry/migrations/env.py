"""Run by alembic: on the connection that `registry.database` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from registry.database import VERSION_TABLE
from registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
