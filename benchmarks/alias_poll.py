"""How long one look for aliases that people moved in MLflow takes, at 10,000 versions.

    python -m benchmarks.alias_poll [--versions 10000] [--names 2000]

MLflow's own database is filled directly: every version with the tags and the card of a module, and
an alias on every tenth name. The poll is `Promotions.sync`, which `modkernel up` does every 15
seconds, as most of them are: nothing moved. Then one alias is moved, and seen. All of it where
MLflow is a database, then through an HTTP server over it, whose database is known (as to
`up --host`), then through one of which nothing more is known: all models, and those of one name.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.registry_scale import fill
from modkernel.registry import Catalogue, ModuleQuery, Registry, Settings
from modkernel.registry.records import Identity, ModuleRecord
from tests.registry.conftest import free_port
from tests.registry.helpers.servers import mlflow_server

TAGS = {f"tag-{number}": f"value of {number}" for number in range(18)}
"""As many as `module_tags` gives a module."""
CARD = "Hidden module of a benchmark.\n" + 40 * "| one | of | its | lines |\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--versions", type=int, default=10_000)
    arguments.add_argument("--names", type=int, default=2_000)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="alias-poll-") as folder:
        settings = Settings(home=Path(folder, "home"))
        found = Catalogue.open(settings)
        fill(found, Path(folder), given.versions, given.names // 3)
        modules = found.modules(ModuleQuery())
        found.database.close()
        with Registry.open(settings) as registry:
            made_by = registry.backends.database.identity.id
            aliases = fill_mlflow(settings.home / "mlflow.db", modules, made_by)
            began = time.perf_counter()
            assert len(registry.promotions.sync()) == aliases
            print(f"{len(modules)} versions of {len({one.name for one in modules})} names")
            print(f"first look, {aliases} aliases recorded: {time.perf_counter() - began:.2f} s")
            look("database", registry, modules[0].name, "by-database", given.rounds)
        files = Path(folder, "files")
        with mlflow_server(settings, free_port(), files) as address:
            served = settings.model_copy(update={"mlflow_uri": address})
            known = served.model_copy(update={"mlflow_store": settings.mlflow_uri})
            with Registry.open(known) as registry:
                look("server, its database known", registry, modules[0].name, "known", given.rounds)
            with Registry.open(Settings(home=settings.home, mlflow_uri=address)) as registry:
                name = modules[0].name
                look("server, one name", registry, name, "one", given.rounds, {name})
                look("server, all names", registry, name, "all", 1)


def look(
    where: str,
    registry: Registry,
    name: str,
    alias: str,
    rounds: int,
    names: set[str] | None = None,
) -> None:
    """Look for moved aliases where none has moved, and where one has; print the seconds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert registry.promotions.sync(names) == ()
        times.append(time.perf_counter() - began)
    registry.backends.models.set_alias(name, alias, 1)
    began = time.perf_counter()
    (moved,) = registry.promotions.sync(names)
    assert (moved.name, moved.version) == (name, 1)
    took = time.perf_counter() - began
    nothing = f"median {statistics.median(times):.2f} s, most {max(times):.2f} s"
    print(f"{where}: nothing moved: {nothing}; one moved: {took:.2f} s")


def fill_mlflow(database: Path, modules: tuple[ModuleRecord, ...], made_by: str) -> int:
    """Register modules of a registry in MLflow's database; how many aliases there are."""
    names = sorted({module.name for module in modules})
    with closing(sqlite3.connect(database)) as connection, connection:

        def write(table: str, columns: str, rows: Iterator[tuple[object, ...]]) -> None:
            marks = ", ".join("?" * (columns.count(",") + 2))
            connection.executemany(
                f"INSERT INTO {table} (workspace, {columns}) VALUES ({marks})",
                (("default", *row) for row in rows),
            )

        write("registered_models", "name, creation_time", ((name, 1) for name in names))
        write(
            "registered_model_tags",
            "name, key, value",
            ((name, key, value) for name in names for key, value in TAGS.items()),
        )
        write(
            "model_versions",
            "name, version, creation_time, current_stage, status, description",
            ((one.name, one.version, 1, "None", "READY", CARD) for one in modules),
        )
        write(
            "model_version_tags",
            "name, version, key, value",
            (
                (one.name, one.version, key, value)
                for one in modules
                for key, value in {**TAGS, ModuleRecord.tag: one.id, Identity.tag: made_by}.items()
            ),
        )
        aliased = names[::10]
        write(
            "registered_model_aliases",
            "name, alias, version",
            ((name, "champion", 1) for name in aliased),
        )
    return len(aliased)


if __name__ == "__main__":
    main()
