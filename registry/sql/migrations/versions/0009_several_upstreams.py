"""What a module stands on is a trait, of which a module on several has several.

Revision: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("interfaces") as interfaces:
        interfaces.drop_index("ix_interfaces_upstream")
        interfaces.drop_column("upstream")
