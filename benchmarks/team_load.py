"""What 32 workers ask of a team's servers: requests a second, transactions, processor time.

    python -m benchmarks.team_load [--hosts 4] [--workers 8] [--modules 64] [--seconds 100]

Hosts are network namespaces of this machine (it needs root and PostgreSQL's binaries), servers and
workers are real, and children sleep where they would compute. One search tries all modules.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.flows.helpers.hosts import BINARIES, can_make_hosts
from tests.flows.helpers.processes import descendants, wait_until
from tests.flows.helpers.team import Team, team
from tests.flows.test_team import BATCHES, SLOW, recipe, run, start, workers

ASKED = re.compile(r'"(GET|POST|PUT|PATCH|DELETE) (/[^ "?]*)[^"]*" (\d{3})')
ID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
DATABASES = ("prefect", "mlflow", "modkernel")
EPOCHS = 10
SHOWN = 6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, default in (("hosts", 4), ("workers", 8), ("modules", 64), ("seconds", 100)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    if not can_make_hosts():
        raise SystemExit("This needs root, network namespaces and PostgreSQL's binaries.")
    with tempfile.TemporaryDirectory(prefix="team-load-") as folder:
        code = Path(folder, "code")
        code.mkdir()
        (code / "slow.py").write_text(SLOW)
        names = [f"host{number}" for number in range(given.hosts)]
        with team([*names, "client"], Path(folder), log_requests=True) as found:
            for host in found.hosts.values():
                host.environment["PYTHONPATH"] += f":{code}"
                host.environment |= {
                    "MODKERNEL_SPREAD": "always",
                    "MODKERNEL_CPU_SLOTS": str(given.workers),
                }
            found.work("client", "flows")
            for name in names:
                found.work(name, "gpu")
            total = given.hosts * given.workers
            wait_until(lambda: workers(found) == total, 600, f"{total} workers poll")
            time.sleep(30)
            idle = measured(found, 60)
            report("idle", total, *idle)
            search(found, given.modules, given.seconds, total)


def search(found: Team, modules: int, seconds: int, total: int) -> None:
    candidates = [
        {"kernel": {"name": "relu"}, "recipe": recipe(EPOCHS) | {"learning_rate": 0.01 + n / 1000}}
        for n in range(modules)
    ]
    width = round(1000 * seconds / EPOCHS / BATCHES)
    spec = {
        "name": "load",
        "dataset": {"name": "digits"},
        "backbone": {"name": "slow:blocks", "width": width},
        "stages": [{"candidates": candidates}],
        "score": "lda",
        "output": {"method": "ridge"},
    }
    began = time.monotonic()
    id = start(found, "search-modules", {"spec": spec})
    counts = snapshot(found)
    while run(found, id)["state"]["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        time.sleep(30)
        now = snapshot(found)
        busy = sum(one["state_type"] == "RUNNING" for one in found.runs("module-work"))
        report(f"{time.monotonic() - began:.0f} s, {busy} at work", total, *difference(counts, now))
        counts = now
    ideal = -(-modules // total) * seconds
    took = time.monotonic() - began
    print(f"{modules} modules of {seconds} s: {took:.0f} s, {took / ideal:.2f} x the ideal time")
    print(run(found, id)["state"]["message"])


def measured(found: Team, seconds: float) -> tuple[float, Counter[str], dict[str, float]]:
    before = snapshot(found)
    time.sleep(seconds)
    return difference(before, snapshot(found))


Snapshot = tuple[float, Counter[str], dict[str, float]]


def difference(before: Snapshot, after: Snapshot) -> Snapshot:
    used = {name: after[2][name] - before[2][name] for name in after[2]}
    return after[0] - before[0], after[1] - before[1], used


def snapshot(found: Team) -> Snapshot:
    """The time, requests so far by server and path, and transactions and CPU seconds so far."""
    asked: Counter[str] = Counter()
    for server in ("prefect", "mlflow"):
        text = (found.servers.folder / f"{server}.log").read_text(errors="replace")
        for method, path, _ in ASKED.findall(text):
            asked[f"{server} {method} {ID.sub('ID', path)}"] += 1
    used = {f"{name} CPU": processor_seconds(one.pid) for name, one in found.services.items()}
    used |= {f"{name} transactions": transactions(found, name) for name in DATABASES}
    return time.monotonic(), asked, used


def processor_seconds(pid: int) -> float:
    total = 0.0
    for one in {pid, *descendants(pid)}:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / 100
    return total


def transactions(found: Team, database: str) -> float:
    query = f"select xact_commit + xact_rollback from pg_stat_database where datname='{database}'"
    command = [str(BINARIES[0] / "psql"), "-h", "127.0.0.1", "-U", "modkernel", "-Atc", query]
    asked = found.servers.command([*command, "postgres"])
    answer = subprocess.run(asked, capture_output=True, text=True, check=True)
    return float(answer.stdout)


def report(what: str, total: int, seconds: float, asked: Any, used: dict[str, float]) -> None:
    rates: Counter[str] = Counter()
    for path, count in asked.items():
        rates[path.partition(" ")[0]] += count
    told = [f"{name} {rates[name] / seconds:.1f} requests/s" for name in ("prefect", "mlflow")]
    told += [f"{name} {value / seconds:.2f}/s" for name, value in used.items()]
    print(f"{what}, {total} workers: {', '.join(told)}", flush=True)
    for path, count in asked.most_common(SHOWN):
        print(f"    {count / seconds:.2f}/s {path}", flush=True)


if __name__ == "__main__":
    main()
