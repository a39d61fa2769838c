"""Statements that are compiled once for the SQLite databases of all tests.

SQLAlchemy compiles what it executes and keeps that by engine and dialect, of which each home that a
test copies has its own: compiling again was a third of what tests of the registry take.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.util import LRUCache

_compiled: LRUCache[Any, Any] = LRUCache(5_000)
_initialize = Engine.__init__


def _is_equal(one: object, other: object) -> bool:
    return type(one) is type(other)


def _share(engine: Engine, *given: Any, **named: Any) -> None:
    _initialize(engine, *given, **named)
    if isinstance(engine.dialect, SQLiteDialect_pysqlite):
        engine._compiled_cache = _compiled


def share_compiled_statements() -> None:
    """From now on, for all engines that are made."""
    # What is compiled is kept by its dialect, and those of all homes are alike.
    SQLiteDialect_pysqlite.__eq__ = _is_equal
    SQLiteDialect_pysqlite.__hash__ = lambda dialect: hash(type(dialect))
    Engine.__init__ = _share
