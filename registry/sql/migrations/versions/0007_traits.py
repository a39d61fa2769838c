"""What people look modules up by; what was deleted in MLflow and still takes room there.

Revision: 0007
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MANY = 500
"""Modules that are read at once."""
CHARACTERS = 255


def upgrade() -> None:
    op.add_column("modules", sa.Column("accuracy", sa.Float, nullable=True))
    op.add_column("promotions", sa.Column("who", sa.String(255), nullable=True))
    op.add_column("promotions", sa.Column("reason", sa.Text, nullable=True))
    with op.batch_alter_table("promotions") as promotions:
        # What is old news when the database is upgraded is told nobody.
        promotions.add_column(
            sa.Column("told", sa.Boolean, nullable=False, server_default=sa.true())
        )
        promotions.alter_column("told", server_default=None)
    op.create_table(
        "traits",
        sa.Column(
            "module_id",
            sa.String(64),
            sa.ForeignKey("modules.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("trait", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(CHARACTERS), primary_key=True),
    )
    op.create_table(
        "remains",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_traits_trait_value", "traits", ["trait", "value", "module_id"])
    op.create_index("ix_modules_created_at_id", "modules", ["created_at", "id"])
    op.create_index("ix_modules_accuracy", "modules", ["accuracy"])
    op.create_index("ix_networks_created_at_id", "networks", ["created_at", "id"])
    _fill(op.get_bind())


def _fill(connection: sa.Connection) -> None:
    modules = sa.table(
        "modules",
        *(sa.column(name) for name in ("id", "kind", "spec", "accuracy")),
        sa.column("metrics", sa.JSON),
    )
    traits = sa.table("traits", *map(sa.column, ("module_id", "trait", "value")))
    interfaces = sa.table("interfaces", *map(sa.column, ("module_id", "upstream")))
    last = ""
    while True:
        page = sa.select(modules).where(modules.c.id > last).order_by(modules.c.id).limit(MANY)
        rows = connection.execute(page).all()
        if not rows:
            break
        last = rows[-1].id
        found = [
            {"module_id": row.id, "trait": trait, "value": value[:CHARACTERS]}
            for row in rows
            for trait, value in sorted(set(_traits(json.loads(row.spec))))
        ]
        connection.execute(sa.insert(traits), found)
        for row in rows:
            accuracy = (row.metrics or {}).get("accuracy")
            if row.kind == "output" and accuracy is not None:
                change = sa.update(modules).values(accuracy=accuracy)
                connection.execute(change.where(modules.c.id == row.id))
    # A hidden module's accuracy is that of the best output module that stands on it.
    output = modules.alias()
    best = (
        sa.select(sa.func.max(output.c.accuracy))
        .join(interfaces, interfaces.c.module_id == output.c.id)
        .where(interfaces.c.upstream == modules.c.id, output.c.kind == "output")
        .scalar_subquery()
    )
    connection.execute(sa.update(modules).values(accuracy=best).where(modules.c.kind == "hidden"))


def _traits(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "dataset", spec["dataset"]["name"]
    yield "fingerprint", spec["dataset"]["fingerprint"]
    for name in spec.get("classes") or spec["dataset"]["classes"]:
        yield "class", name
    if spec["kind"] == "hidden":
        yield "backbone", spec["backbone"]["name"]
        yield "objective", spec["hidden"]["objective"]["name"]
        for block in spec["blocks"]:
            yield "block", block
