"""What a module was trained on and where that is; the files of its MLflow model.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("modules", sa.Column("dataset", sa.Text))
    op.add_column("modules", sa.Column("pairs", sa.Text))
    op.add_column("modules", sa.Column("files", sa.JSON))
