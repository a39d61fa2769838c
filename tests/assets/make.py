"""Write the stored forms of today's code: python -m tests.assets.make

A chain of two small modules with their files, the moments of the first, what the chain predicts,
and the registry's database with both and a network of them: as a SQL dump of each schema. Run it
when a format or a digest changes before it was released; once it was, add files beside these and
leave these alone, since what a release wrote is what people have.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from alembic import command
from alembic.config import Config

from modkernel.modules.network import assemble
from modkernel.registry import Registry, Settings
from modkernel.registry.sql.engine import _engine
from modkernel.registry.sql.tables import SCHEMA_VERSION
from modkernel.reuse.moments_file import MOMENTS_FILE
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.helpers.examples import EVALUATION, Examples, store_chain, write_example_moments

FOLDER = Path(__file__).parent
RAW = torch.arange(5 * 64, dtype=torch.int64).reshape(5, 1, 8, 8).mul(37).remainder(256).byte()
"""The examples [5, 1, 8, 8] that the chain predicts."""
ONCE = {
    ("interfaces", "upstream"): "(SELECT value FROM newest.traits AS known WHERE "
    "known.module_id = newest.interfaces.module_id AND trait = 'upstream')"
}
"""What a column of an older schema had, by table and name, where none has its name now."""
TRAITS_SINCE_0008 = ("name", "kind", "upstream", "takes", "gives", "kernel")


def main() -> None:
    """Write all files again."""
    with TemporaryDirectory() as temporary:
        settings = Settings(home=Path(temporary) / "home")
        examples = Examples(Path(temporary) / "trained")
        first = examples.first()
        write_example_moments(first.folder / MOMENTS_FILE, first.id)
        chain = first, examples.output(first)
        with Registry.open(settings) as registry:
            records = store_chain(registry, chain, "old")
            registry.networks.add("old", [record.id for record in records], EVALUATION)
        for name, stored in zip(("hidden", "output"), chain, strict=True):
            shutil.rmtree(FOLDER / name, ignore_errors=True)
            shutil.copytree(stored.folder, FOLDER / name)
        predicted = assemble(chain).predict(RAW).tolist()
        expected = {"fingerprint": FACTS.fingerprint, "probabilities": predicted}
        (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        newest = settings.home / "registry.db"
        with closing(sqlite3.connect(newest)) as connection, connection:
            connection.execute("UPDATE modules SET source = '/where/it/was/trained'")
        dump(newest, SCHEMA_VERSION)
        for version in ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009"):
            older = Path(temporary) / f"{version}.db"
            copy_at(version, newest, older)
            dump(older, version)


def copy_at(version: str, newest: Path, target: Path) -> None:
    """What of a database there is room for in an older schema."""
    engine = _engine(f"sqlite:///{target}")
    with engine.execution_options(modkernel_write=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", "modkernel.registry.sql:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute("ATTACH ? AS newest", (str(newest),))
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            if table.startswith("sqlite_") or table == "modkernel_schema":
                continue
            names = list(names_of(connection, table))
            columns = ", ".join(names)
            values = ", ".join(ONCE.get((table, name), name) for name in names)
            connection.execute(
                f"INSERT INTO {table} ({columns}) SELECT {values} FROM newest.{table}"
            )
            if table == "traits" and version < "0008":
                connection.execute(f"DELETE FROM traits WHERE trait IN {TRAITS_SINCE_0008}")


def names_of(connection: sqlite3.Connection, table: str) -> Iterator[str]:
    """Names of a table's columns."""
    for row in connection.execute(f"PRAGMA main.table_info({table})"):
        yield row[1]


def dump(database: Path, version: str) -> None:
    """Write a database as SQL."""
    with closing(sqlite3.connect(database)) as connection:
        text = "\n".join(connection.iterdump())
    (FOLDER / f"registry-{version}.sql").write_text(text + "\n")


if __name__ == "__main__":
    main()
