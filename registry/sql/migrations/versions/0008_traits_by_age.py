"""All that modules are looked up by is a trait, and traits are in order of age.

Revision: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OF_MODULES = ("name", "kind")
OF_INTERFACES = ("upstream", "takes", "gives", "kernel")


def upgrade() -> None:
    modules = sa.table("modules", *map(sa.column, ("id", "name", "kind", "created_at")))
    interfaces = sa.table("interfaces", *map(sa.column, ("module_id", *OF_INTERFACES)))
    traits = sa.table("traits", *map(sa.column, ("module_id", "trait", "value", "created_at")))
    op.drop_index("ix_traits_trait_value", "traits")
    op.add_column("traits", sa.Column("created_at", sa.DateTime(timezone=True), nullable=True))
    made = sa.select(modules.c.created_at).where(modules.c.id == traits.c.module_id)
    op.execute(sa.update(traits).values(created_at=made.scalar_subquery()))
    with op.batch_alter_table("traits") as changed:
        changed.alter_column("created_at", nullable=False)
    joined = modules.join(interfaces, interfaces.c.module_id == modules.c.id)
    for name in (*OF_MODULES, *OF_INTERFACES):
        value = (modules if name in OF_MODULES else interfaces).c[name]
        new = sa.select(modules.c.id, sa.literal(name), value, modules.c.created_at)
        columns = [column.name for column in traits.c]
        op.execute(sa.insert(traits).from_select(columns, new.select_from(joined)))
    op.create_index(
        "ix_traits_trait_value", "traits", ["trait", "value", "created_at", "module_id"]
    )
    op.drop_index("ix_modules_name", "modules")
    op.create_index("ix_modules_name_created_at", "modules", ["name", "created_at"])
    op.drop_index("ix_modules_created_at_id", "modules")
    op.create_index(
        "ix_modules_created_at_id", "modules", ["created_at", "id", "state", "name", "accuracy"]
    )
