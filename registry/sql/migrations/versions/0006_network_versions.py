"""Networks are versions of registered models in MLflow, as modules are.

Revision: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("networks", sa.Column("version", sa.Integer))
    op.add_column("networks", sa.Column("model_id", sa.String(64)))
    op.add_column("networks", sa.Column("files", sa.JSON))
