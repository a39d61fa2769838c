"""Tables of the registry. The migrations make them; a test holds the two equal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = "0010"
"""Newest migration; an open database must stand exactly there."""

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on databases that keep a time zone and on those that do not."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give what the database holds its time zone."""
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def later_than(last: datetime | None) -> datetime:
    """Now, or else just after the last of a name: the machine that stored that may be ahead.

    The newest of a name is so the one that was stored last, whatever each machine's clock says.
    """
    now = utc_now()
    return now if last is None or last < now else last + timedelta(microseconds=1)


class Base(DeclarativeBase):
    """Base of the tables."""

    metadata = MetaData(naming_convention=NAMING)


class ModuleRow(Base):
    """A module: identity, hashes, state of the saga and where MLflow keeps it."""

    __tablename__ = "modules"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    recipe_digest: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(255))
    version: Mapped[int | None] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    weights_sha256: Mapped[str] = mapped_column(String(64))
    spec_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    spec: Mapped[str] = mapped_column(Text)
    report: Mapped[str] = mapped_column(Text)
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    source: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
    run_id: Mapped[str | None] = mapped_column(String(64))
    model_id: Mapped[str | None] = mapped_column(String(64))
    dataset: Mapped[str | None] = mapped_column(Text)
    pairs: Mapped[str | None] = mapped_column(Text)
    files: Mapped[dict[str, str] | None] = mapped_column(JSON)
    accuracy: Mapped[float | None] = mapped_column(Float)

    interface: Mapped[InterfaceRow] = relationship(cascade="all, delete-orphan")
    traits: Mapped[list[TraitRow]] = relationship(cascade="all, delete-orphan")
    lineage: Mapped[list[LineageRow]] = relationship(
        foreign_keys="LineageRow.module_id",
        order_by="LineageRow.position",
        cascade="all, delete-orphan",
    )


class InterfaceRow(Base):
    """What a module takes and gives, in columns that can be searched."""

    __tablename__ = "interfaces"

    module_id: Mapped[str] = mapped_column(
        ForeignKey("modules.id", ondelete="CASCADE"), primary_key=True
    )
    takes: Mapped[str] = mapped_column(String(64))
    gives: Mapped[str] = mapped_column(String(64))
    dtype: Mapped[str] = mapped_column(String(16))
    kernel: Mapped[str] = mapped_column(String(64))


class TraitRow(Base):
    """What a person looks a module up by: a class of its data, a block, an objective and so on.

    With the module's age, so that an index has the modules of a trait in its order.
    """

    __tablename__ = "traits"

    module_id: Mapped[str] = mapped_column(
        ForeignKey("modules.id", ondelete="CASCADE"), primary_key=True
    )
    trait: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[str] = mapped_column(String(255), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class LineageRow(Base):
    """All that a module stands on, each after what that stands on, itself last; from 1."""

    __tablename__ = "lineage"

    module_id: Mapped[str] = mapped_column(
        ForeignKey("modules.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    member_id: Mapped[str] = mapped_column(ForeignKey("modules.id"), index=True)


class MomentsRow(Base):
    """Class moments of a module's features on one data set; the bytes are in MLflow."""

    __tablename__ = "moments"

    module_id: Mapped[str] = mapped_column(
        ForeignKey("modules.id", ondelete="CASCADE"), primary_key=True
    )
    fingerprint: Mapped[str] = mapped_column(String(128), primary_key=True, index=True)
    dataset: Mapped[str | None] = mapped_column(String(255))
    classes: Mapped[list[str]] = mapped_column(JSON)
    examples: Mapped[int] = mapped_column(Integer)
    dimension: Mapped[int] = mapped_column(Integer)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)


class GroundTruthRow(Base):
    """What a module was found to be worth for some tasks; the bytes are in MLflow."""

    __tablename__ = "ground_truths"

    module_id: Mapped[str] = mapped_column(
        ForeignKey("modules.id", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(128))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)


class ExamplesRow(Base):
    """The first eight bytes of SHA-256 of each example that a data set trains or validates on.

    Little endian, signed, sorted, each once. What a bundle says of them has another key than what
    was read from the data: see `registry.beside.examples`.
    """

    __tablename__ = "examples"

    fingerprint: Mapped[str] = mapped_column(String(128), primary_key=True)
    training: Mapped[bytes] = mapped_column(LargeBinary)
    validation: Mapped[bytes] = mapped_column(LargeBinary)


class NetworkRow(Base):
    """A composition."""

    __tablename__ = "networks"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)
    made_again_at: Mapped[datetime | None] = mapped_column(UtcTime)
    run_id: Mapped[str | None] = mapped_column(String(64))
    spec: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int | None] = mapped_column(Integer)
    model_id: Mapped[str | None] = mapped_column(String(64))
    files: Mapped[dict[str, str] | None] = mapped_column(JSON)

    members: Mapped[list[NetworkModuleRow]] = relationship(order_by="NetworkModuleRow.position")
    evaluations: Mapped[list[EvaluationRow]] = relationship(order_by="EvaluationRow.id")


class NetworkModuleRow(Base):
    """A module of a composition, pinned by id and by the hashes of both files."""

    __tablename__ = "network_modules"

    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    module_id: Mapped[str] = mapped_column(ForeignKey("modules.id"), index=True)
    weights_sha256: Mapped[str] = mapped_column(String(64))
    spec_sha256: Mapped[str] = mapped_column(String(64))


class EvaluationRow(Base):
    """An evaluation of a composition."""

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), index=True)
    dataset: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(128))
    evaluation: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)


class PromotionRow(Base):
    """History of an alias: the `serial`-th target it was seen to have."""

    __tablename__ = "promotions"
    __table_args__ = (UniqueConstraint("name", "alias", "serial"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(255))
    alias: Mapped[str] = mapped_column(String(255))
    serial: Mapped[int] = mapped_column(Integer)
    version: Mapped[int | None] = mapped_column(Integer)
    module_id: Mapped[str | None] = mapped_column(String(64))
    who: Mapped[str | None] = mapped_column(String(255))
    reason: Mapped[str | None] = mapped_column(Text)
    told: Mapped[bool] = mapped_column(Boolean, default=False)
    seen_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)


class RemainsRow(Base):
    """What was deleted in MLflow for us, and takes room there until it is collected."""

    __tablename__ = "remains"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(255))
    uri: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[datetime] = mapped_column(UtcTime, default=utc_now)


class IdentityRow(Base):
    """What tells this registry from others that keep their runs in the same MLflow; one row."""

    __tablename__ = "identity"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    has_untagged: Mapped[bool] = mapped_column(Boolean)


class ClaimRow(Base):
    """Who may work on a key (a recipe digest, or a module id while it is stored), until when."""

    __tablename__ = "claims"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(255))
    token: Mapped[str] = mapped_column(String(32))
    expires_at: Mapped[float] = mapped_column(Float)


Index("ix_modules_name_version", ModuleRow.name, ModuleRow.version)
Index("ix_modules_name_created_at", ModuleRow.name, ModuleRow.created_at)
# All that a look through the modules by age asks of each: the rows themselves hold whole specs.
Index(
    "ix_modules_created_at_id",
    ModuleRow.created_at,
    ModuleRow.id,
    ModuleRow.state,
    ModuleRow.name,
    ModuleRow.accuracy,
)
Index("ix_modules_accuracy", ModuleRow.accuracy)
Index(
    "ix_traits_trait_value",
    TraitRow.trait,
    TraitRow.value,
    TraitRow.created_at,
    TraitRow.module_id,
)
Index("ix_networks_created_at_id", NetworkRow.created_at, NetworkRow.id)
