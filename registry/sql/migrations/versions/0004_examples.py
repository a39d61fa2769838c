"""Which examples are in the training and in the validation part of a data set.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "examples",
        sa.Column("fingerprint", sa.String(128), primary_key=True),
        sa.Column("training", sa.LargeBinary, nullable=False),
        sa.Column("validation", sa.LargeBinary, nullable=False),
    )
