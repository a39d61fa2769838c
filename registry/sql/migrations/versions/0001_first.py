"""The first schema.

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "modules",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("recipe_digest", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(255), nullable=False, index=True),
        sa.Column("version", sa.Integer),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("spec_sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("model_id", sa.String(64)),
    )
    op.create_index("ix_modules_name_version", "modules", ["name", "version"])
    op.create_table(
        "interfaces",
        sa.Column(
            "module_id",
            sa.String(64),
            sa.ForeignKey("modules.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("upstream", sa.String(80), nullable=False, index=True),
        sa.Column("takes", sa.String(64), nullable=False),
        sa.Column("gives", sa.String(64), nullable=False),
        sa.Column("dtype", sa.String(16), nullable=False),
        sa.Column("kernel", sa.String(64), nullable=False),
    )
    op.create_table(
        "lineage",
        sa.Column(
            "module_id",
            sa.String(64),
            sa.ForeignKey("modules.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column(
            "member_id", sa.String(64), sa.ForeignKey("modules.id"), nullable=False, index=True
        ),
    )
    op.create_table(
        "networks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False, index=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("run_id", sa.String(64)),
        sa.Column("spec", sa.Text),
    )
    op.create_table(
        "network_modules",
        sa.Column("network_id", sa.String(64), sa.ForeignKey("networks.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column(
            "module_id", sa.String(64), sa.ForeignKey("modules.id"), nullable=False, index=True
        ),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("spec_sha256", sa.String(64), nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "network_id", sa.String(64), sa.ForeignKey("networks.id"), nullable=False, index=True
        ),
        sa.Column("dataset", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("evaluation", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("alias", sa.String(255), nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("module_id", sa.String(64)),
        sa.Column("seen_at", TIME, nullable=False),
        sa.UniqueConstraint("name", "alias", "serial"),
    )
    op.create_table(
        "claims",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
