"""What tells a registry from others at the same MLflow.

Revision: 0010
"""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    identity = op.create_table(
        "identity",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("has_untagged", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_identity"),
    )
    older = any(
        op.get_bind().execute(sa.text(f"SELECT id FROM {table} LIMIT 1")).first()
        for table in ("modules", "networks")
    )
    op.bulk_insert(identity, [{"id": uuid4().hex, "has_untagged": older}])
