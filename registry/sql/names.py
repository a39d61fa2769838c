"""What is stored, by the names that people choose from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from modkernel.errors import NameTakenError
from modkernel.registry.records import StoredNames
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import ModuleRow, NetworkModuleRow, NetworkRow, PromotionRow

NEWEST = 200
"""Aliases, versions and networks that are listed at most: nobody finds one among thousands."""
IS_HIDDEN = (ModuleRow.kind != "output", ModuleRow.state == "READY")


def stored_names(database: Database) -> StoredNames:
    """What of the registry can be chosen in a form, the newest first.

    Raises:
        StoreError: the database does not answer.
    """
    with database.reading() as session:
        return StoredNames(
            modules=_modules(session), networks=_networks(session), stages=_stages(session)
        )


def refuse_taken(
    database: Database, networks: Sequence[str] = (), modules: Sequence[str] = ()
) -> None:
    """Look whether names are free: a network and a module cannot be the same registered model.

    Args:
        database: The registry's.
        networks: Names that networks are to have.
        modules: Names that modules are to have.

    Raises:
        NameTakenError: one is not.
    """
    by_modules = select(ModuleRow.name).where(ModuleRow.name.in_(networks)).limit(1)
    by_networks = select(NetworkRow.name).where(NetworkRow.name.in_(modules)).limit(1)
    with database.reading() as session:
        module = session.scalars(by_modules).first() if networks else None
        network = session.scalars(by_networks).first() if modules else None
    if module is not None:
        raise NameTakenError(
            f"A network cannot be named '{module}': stored modules have that name, and both would "
            "be versions of one registered model in MLflow. Choose another name."
        )
    if network is not None:
        raise NameTakenError(
            f"A module cannot be named '{network}': a network has that name, and both would be "
            "versions of one registered model in MLflow. Choose another name for the network that "
            "the module is trained for."
        )


def _modules(session: Session) -> tuple[str, ...]:
    newest = (
        select(ModuleRow.name, ModuleRow.version)
        .where(*IS_HIDDEN, ModuleRow.version.is_not(None))
        .order_by(ModuleRow.created_at.desc(), ModuleRow.version.desc())
        .limit(NEWEST)
    )
    versions: dict[str, list[str]] = {}
    for name, version in session.execute(newest):
        versions.setdefault(name, []).append(f"{name}/{version}")
    promoted = (f"{name}@{alias}" for name, alias in session.execute(_aliases()))
    return (*promoted, *chain.from_iterable((name, *versions[name]) for name in versions))


def _aliases() -> Select[str, str]:
    """The aliases of ready hidden modules, as they were seen last."""
    last = (
        select(PromotionRow.name, PromotionRow.alias, func.max(PromotionRow.serial).label("serial"))
        .group_by(PromotionRow.name, PromotionRow.alias)
        .subquery()
    )
    return (
        select(PromotionRow.name, PromotionRow.alias)
        .join(
            last,
            (PromotionRow.name == last.c.name)
            & (PromotionRow.alias == last.c.alias)
            & (PromotionRow.serial == last.c.serial),
        )
        .join(ModuleRow, ModuleRow.id == PromotionRow.module_id)
        .where(*IS_HIDDEN, PromotionRow.version.is_not(None))
        .order_by(PromotionRow.id.desc())
        .limit(NEWEST)
    )


def _networks(session: Session) -> tuple[str, ...]:
    made = func.max(func.coalesce(NetworkRow.made_again_at, NetworkRow.created_at))
    query = select(NetworkRow.name).group_by(NetworkRow.name).order_by(made.desc()).limit(NEWEST)
    return tuple(session.scalars(query))


def _stages(session: Session) -> tuple[str, ...]:
    """1, 2, … of the network with most hidden modules, and the output module's."""
    hidden = (
        select(func.max(NetworkModuleRow.position))
        .join(ModuleRow, ModuleRow.id == NetworkModuleRow.module_id)
        .where(ModuleRow.kind != "output")
    )
    return (*map(str, range(1, (session.scalar(hidden) or 0) + 1)), "output")
