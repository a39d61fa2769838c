"""How fast a registry of 100,000 modules answers: p50 and p95 of each question.

The processor time, which other work on the machine does not lengthen, is that of this process: on
SQLite all that there is.

    python -m benchmarks.registry_scale [--modules 100000] [--database postgresql://…]

The rows are written into the database directly, without MLflow: chains of three modules under
2,000 names, as a team of years has them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from sqlalchemy import insert, text

from modkernel.registry import Catalogue, ModuleQuery, Settings
from modkernel.registry.sql import tables
from modkernel.registry.sql.tables import utc_now
from modkernel.spec import OutputModuleSpec, parse_module_spec
from tests.registry.helpers.examples import Examples

NAMES = 2_000
ASKED = 100
MANY = 5_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--modules", type=int, default=100_000)
    arguments.add_argument("--database")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="registry-scale-") as folder:
        values = {} if given.database is None else {"database_url": given.database}
        found = Catalogue.open(Settings(home=Path(folder, "home"), **values))
        began = time.perf_counter()
        ids = fill(found, Path(folder), given.modules)
        if given.database is not None:  # As its autovacuum does by itself, within a minute or two.
            with found.database.writing() as session:
                session.execute(text("ANALYZE"))
        print(f"{given.modules} modules written in {time.perf_counter() - began:.0f} s")
        ask_all(found, ids)
        found.database.close()


def ask_all(found: Catalogue, ids: list[str]) -> None:
    """Ask each question many times, and tell how long it takes."""
    draw = random.Random(0)

    def name() -> str:
        return f"net-{draw.randrange(NAMES)}.hidden-1"

    last = found.modules(ModuleQuery(), newest=1)[0]
    for what, ask in {
        "list the newest 20": lambda: found.modules(ModuleQuery(), newest=20),
        "the 20 before those": lambda: found.modules(ModuleQuery(), 20, last),
        "find by name": lambda: found.modules(ModuleQuery(name=name()), newest=20),
        "find by class and kind": lambda: found.modules(
            ModuleQuery(classes=(f"class {draw.randrange(100)}",), kind="hidden"), newest=20
        ),
        "find by accuracy": lambda: found.modules(ModuleQuery(accuracy=0.999), newest=20),
        "find what is not there": lambda: found.modules(
            ModuleQuery(dataset="none", accuracy=0.5), newest=20
        ),
        "resolve a name": lambda: found.module(name()),
        "resolve NAME/VERSION": lambda: found.module(f"{name()}/1"),
        "resolve a prefix": lambda: found.module(draw.choice(ids)[:12]),
        "chain": lambda: found.chain(last),
        "what stands on it": lambda: found.standing_on(last),
    }.items():
        report(what, ask)


def report(what: str, ask: Callable[[], object]) -> None:
    """One line: how long a question takes."""
    ask()
    times, own = [], []
    for _ in range(ASKED):
        began, cpu = time.perf_counter(), time.process_time()
        ask()
        own.append(1000 * (time.process_time() - cpu))
        times.append(1000 * (time.perf_counter() - began))
    p95, own95 = (statistics.quantiles(one, n=20)[-1] for one in (times, own))
    middle = statistics.median(times)
    print(
        f"{what:24s} p50 {middle:6.2f} ms   p95 {p95:6.2f} ms   processor p95 {own95:6.2f} ms",
        flush=True,
    )


def fill(found: Catalogue, folder: Path, count: int, names: int = NAMES) -> list[str]:
    """Write rows of so many modules, of so many networks' names; their ids."""
    draw, started = random.Random(1), utc_now() - timedelta(days=1000)
    specs = [stored.spec for stored in Examples(folder / "trained").chain()]
    texts = [json.loads(spec.canonical_json()) for spec in specs]
    ids: list[str] = []
    for start in range(0, count, MANY):
        rows: dict[type[tables.Base], list[dict[str, object]]] = {
            table: []
            for table in (
                tables.ModuleRow,
                tables.InterfaceRow,
                tables.LineageRow,
                tables.TraitRow,
            )
        }
        for number in range(start, min(start + MANY, count)):
            position, network = number % 3, number // 3 % names
            identity = f"{draw.getrandbits(256):064x}"
            below = [] if position == 0 else ids[-position:]
            ids.append(identity)
            text = texts[position] | {"seed": number}
            upstream = below[-1] if below else text["interface"]["upstream"]
            text["interface"] = text["interface"] | {"upstream": upstream}
            spec = parse_module_spec(json.dumps(text))
            kind = spec.kind
            part = "output" if isinstance(spec, OutputModuleSpec) else f"hidden-{position + 1}"
            rows[tables.ModuleRow].append(
                {
                    "id": identity,
                    "recipe_digest": f"{number:064x}",
                    "name": f"net-{network}.{part}",
                    "version": number // 3 // names + 1,
                    "kind": kind,
                    "state": "READY",
                    "weights_sha256": identity,
                    "spec_sha256": identity,
                    "size_bytes": 1000,
                    "spec": spec.canonical_json(),
                    "report": "{}",
                    "metrics": {},
                    "source": "",
                    "seconds": 1.0,
                    "created_at": started + timedelta(minutes=number),
                    "accuracy": draw.random(),
                }
            )
            interface = spec.interface
            rows[tables.InterfaceRow].append(
                {
                    "module_id": identity,
                    "takes": "x".join(map(str, interface.takes)),
                    "gives": "x".join(map(str, interface.gives)),
                    "dtype": interface.dtype,
                    "kernel": interface.kernel.name,
                }
            )
            rows[tables.LineageRow] += [
                {"module_id": identity, "position": place, "member_id": member}
                for place, member in enumerate((*below, identity), start=1)
            ]
            rows[tables.TraitRow] += [
                {
                    "module_id": identity,
                    "trait": trait,
                    "value": value,
                    "created_at": started + timedelta(minutes=number),
                }
                for trait, value in (
                    ("name", f"net-{network}.{part}"),
                    ("kind", kind),
                    ("upstream", interface.stands_on[0]),
                    ("takes", "x".join(map(str, interface.takes))),
                    ("gives", "x".join(map(str, interface.gives))),
                    ("kernel", interface.kernel.name),
                    ("dataset", f"data {network % 50}"),
                    *(("class", f"class {(network + step) % 100}") for step in range(10)),
                )
            ]
        with found.database.writing() as session:
            for table, values in rows.items():
                session.execute(insert(table), values)
    return ids


if __name__ == "__main__":
    main()
