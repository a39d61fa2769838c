"""A team as it would be: servers on one host with PostgreSQL, workers on others, a client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modkernel.flows.servers.prefect_password import basic_authorization
from tests.flows.helpers.hosts import BINARIES, Host, hosts
from tests.flows.helpers.processes import descendants, wait_until

PASSWORD = "team:secret-word"
"""Of the Prefect server."""
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


@dataclass
class Team:
    """Hosts, and the servers of the first."""

    hosts: dict[str, Host]
    servers: Host
    postgres: Path
    log_requests: bool
    services: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    working: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The newest worker of each host."""

    @property
    def api(self) -> str:
        return f"http://{self.servers.address}:4200/api"

    def ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """What Prefect's server answers, asked on its own host."""
        program = (
            "import json, sys, time, urllib.request as u\n"
            "url, header, body, method = json.load(sys.stdin)\n"
            "data = None if method == 'GET' else json.dumps(body).encode()\n"
            "head = {'Content-Type': 'application/json', 'Authorization': header}\n"
            "request = u.Request(url, data, head, method=method)\n"
            "for last in (False,) * 30 + (True,):\n"  # It may be starting again.
            "    try:\n"
            "        answer = u.urlopen(request, timeout=20).read().decode()\n"
            "        break\n"
            "    except OSError as error:\n"
            "        if last or 400 <= getattr(error, 'code', 500) < 500:\n"
            "            raise\n"
            "        time.sleep(2)\n"
            "print(answer or 'null')\n"
        )
        given = [f"{self.api}{path}", basic_authorization(PASSWORD), body or {}, method]
        answer = subprocess.run(
            self.servers.command([sys.executable, "-c", program]),
            input=json.dumps(given),
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow, the first one first."""
        body = {
            "flows": {"name": {"any_": [flow]}},
            "sort": "START_TIME_ASC",
            "limit": 200,
        }
        return list(self.ask("/flow_runs/filter", body))

    def start_service(self, name: str) -> None:
        """Start a server, or start it again."""
        self.services[name] = {"prefect": self._prefect, "mlflow": self._mlflow}[name]()

    def _prefect(self) -> subprocess.Popen[bytes]:
        return self.servers.start(
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", "0.0.0.0", "--port", "4200"),
            log="prefect.log",
            environment=QUIET
            | {
                "PREFECT_API_DATABASE_CONNECTION_URL": _database("prefect", "asyncpg"),
                "PREFECT_SERVER_API_AUTH_STRING": PASSWORD,
                "PREFECT_HOME": str(self.servers.folder / "prefect"),
                "PREFECT_UI_ENABLED": "false",
                "PREFECT_SERVER_LOGGING_LEVEL": "INFO" if self.log_requests else "WARNING",
            },
        )

    def _mlflow(self) -> subprocess.Popen[bytes]:
        return self.servers.start(
            *(sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", "5000"),
            *("--workers", "1", "--artifacts-destination", str(self.servers.folder / "artifacts")),
            *("--allowed-hosts", "*"),
            log="mlflow.log",
            environment=QUIET | {"MLFLOW_BACKEND_STORE_URI": _database("mlflow", "psycopg")},
        )

    def stop_service(self, name: str) -> None:
        """Kill a server of the first host at once."""
        end(self.services[name])

    def stop_work(self, name: str) -> None:
        """Stop the worker of a host, as a person does."""
        process = self.working[name]
        process.send_signal(signal.SIGTERM)
        process.wait(90)

    def restart_postgres(self) -> None:
        """Stop PostgreSQL at once, and start it again."""
        self._control_postgres("-m", "immediate", "stop")
        time.sleep(5)
        self.start_postgres()

    def start_postgres(self) -> None:
        options = f"-k {self.postgres} -c listen_addresses=* -c fsync=off -c max_connections=300"
        self._control_postgres("-o", options, "-l", str(self.postgres / "log"), "start")

    def _control_postgres(self, *arguments: str) -> None:
        command = ["runuser", "-u", "postgres", "--", str(BINARIES[0] / "pg_ctl"), "-w", "-D"]
        command += [str(self.postgres / "data"), *arguments]
        subprocess.run(
            self.servers.command(command),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.postgres,
        )

    def work(self, name: str, *pools: str, **environment: str) -> subprocess.Popen[bytes]:
        """`modkernel worker` on a host."""
        self.working[name] = self.hosts[name].start(
            *(sys.executable, "-m", "modkernel.flows.cli", "worker", *pools),
            log="worker.log",
            environment=environment,
        )
        return self.working[name]


def _database(name: str, driver: str, host: str = "127.0.0.1") -> str:
    return f"postgresql+{driver}://modkernel@{host}:5432/{name}"


@contextmanager
def team(names: Sequence[str], folder: Path, log_requests: bool = False) -> Iterator[Team]:
    """A team with hosts 'servers' and those of these names, and its pools made."""
    with (
        tempfile.TemporaryDirectory(
            prefix="modkernel-postgres-", ignore_cleanup_errors=True
        ) as data,
        hosts(["servers", *names], folder) as made,
    ):
        found = Team(made, made["servers"], Path(data), log_requests)
        _make_postgres(found)
        found.start_service("mlflow")
        found.start_service("prefect")
        for host in made.values():
            host.environment |= QUIET | {
                "PREFECT_API_URL": found.api,
                "PREFECT_API_AUTH_STRING": PASSWORD,
                "MODKERNEL_MLFLOW_URI": f"http://{found.servers.address}:5000",
                "MODKERNEL_DATABASE_URL": (
                    f"postgresql://modkernel@{found.servers.address}:5432/modkernel"
                ),
                "PREFECT_HOME": str(host.folder / "prefect"),
            }
        wait_until(lambda: _answers(found.servers, 4200, "/api/health"), 120, "Prefect's server")
        wait_until(lambda: _answers(found.servers, 5000, "/health"), 120, "MLflow's server")
        first = found.servers.modkernel("team", "init")
        assert first.returncode == 0, first.stderr
        yield found


def _make_postgres(found: Team) -> None:
    # Not among pytest's folders, which it closes to other users whenever it starts.
    shutil.chown(found.postgres, "postgres")
    data, host = found.postgres, found.servers
    owner = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*owner, BINARIES[0] / "initdb", "-D", data / "data", "-U", "modkernel", "-A", "trust"],
        check=True,
        capture_output=True,
        cwd=data,
    )
    with (data / "data" / "pg_hba.conf").open("a") as rights:
        rights.write("host all all 10.77.0.0/24 trust\n")
    found.start_postgres()
    for name in ("modkernel", "mlflow", "prefect"):
        create = [BINARIES[0] / "createdb", "-h", data, "-U", "modkernel", name]
        subprocess.run(host.command([*map(str, create)]), check=True, capture_output=True, cwd=data)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it has started."""
    for pid in {*descendants(process.pid), process.pid}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _answers(host: Host, port: int, path: str) -> bool:
    program = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}{path}', timeout=2)"
    command = host.command([sys.executable, "-c", program])
    return subprocess.run(command, capture_output=True).returncode == 0
