"""The Docker files: linted, hardened, secrets from files alone; what runs in the containers."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from modkernel.flows.servers.prefect_password import basic_authorization
from modkernel.registry import Settings
from modkernel.registry.tracking.auth_server import configuration

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TEAM, MACHINE = DOCKER / "compose.yaml", DOCKER / "compose.worker.yaml"
VALUES = {"SERVER": "team.example", "WORKER_NAME": "machine-2"}
TRUSTED = "${TRUSTED:-${CERTIFICATE:-/etc/ssl/certs/ca-certificates.crt}}"
"""The certificate itself, or the CA's where one has signed it."""
TRAINS = {TEAM: ("cpu", "flows", "gpu"), MACHINE: ("cpu", "gpu")}
"""Services that hold runs in hand."""


def tool(name: str) -> str:
    """A linter of the dev extra, beside this interpreter or on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (pip install -e '.[dev]')")
    return found


def services(path: Path) -> dict[str, dict[str, Any]]:
    """Services of a compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


@pytest.mark.parametrize("file", [TEAM, MACHINE], ids=lambda file: file.name)
@pytest.mark.parametrize(
    "command",
    [
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        ("compose-lint", "check", "--fail-on", "high"),
    ],
    ids=lambda command: command[0],
)
def test_compose_files_pass_the_linters(file: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [tool(command[0]), *command[1:], str(file)],
        env=os.environ | VALUES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = [tool("hadolint"), "--failure-threshold", "info", str(DOCKER / "Dockerfile")]
    done = subprocess.run(hadolint, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", [TEAM, MACHINE], ids=lambda file: file.name)
def test_services_are_hardened_and_watched(file: Path) -> None:
    for name, service in services(file).items():
        assert service["user"] not in ("", "root", "0"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        once = service["restart"] == "no"
        assert ("test" in service["healthcheck"]) != once, name
        for port in service.get("ports", []):
            assert port.startswith("${LISTEN:-127.0.0.1}:"), name
    for name in TRAINS[file]:
        service = services(file)[name]
        assert int(service["stop_grace_period"].removesuffix("s")) > 60, name
        assert service["command"][:2] == ["modkernel", "worker"], name
    gpu = services(file)["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert gpu["profiles"] == ["gpu"]


@pytest.mark.parametrize("file", [TEAM, MACHINE], ids=lambda file: file.name)
def test_secrets_come_from_files_alone(file: Path) -> None:
    secret = ("PASSWORD", "AUTH_STRING", "SECRET_KEY")
    compose = yaml.safe_load(file.read_text())
    for name, service in compose["services"].items():
        environment = service.get("environment", {})
        assert not [variable for variable in environment if variable.endswith(secret)], name
        assert not [value for value in environment.values() if "${" in value and ":@" in value]
        for given in service.get("secrets", []):
            source = given if isinstance(given, str) else given["source"]
            assert set(compose["secrets"][source]) == {"file"}
    assert not [line for line in (DOCKER / ".env.example").read_text().split() if "PASSW" in line]
    ignored = subprocess.run(["git", "check-ignore", "docker/secrets/postgres"], cwd=ROOT)
    assert ignored.returncode == 0


def test_what_the_servers_and_the_images_are_told_fits() -> None:
    team = services(TEAM)
    prefect, mlflow = team["prefect"], team["mlflow"]
    assert "*" not in prefect["environment"]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    assert "modkernel.flows.servers.prefect_server" in prefect["command"]
    assert "modkernel.registry.tracking.auth_server" in mlflow["command"]
    assert any(part.startswith("--allowed-hosts=") for part in mlflow["command"])
    # An empty one would be no check of the certificate at all.
    for file in (TEAM, MACHINE):
        for service in services(file).values():
            trusted = service.get("environment", {}).get("MLFLOW_TRACKING_SERVER_CERT_PATH")
            assert trusted in (None, TRUSTED)
            assert service.get("environment", {}).get("PREFECT_API_SSL_CERT_FILE") in (
                None,
                TRUSTED,
            )
    accounts, expected = configparser.ConfigParser(), configparser.ConfigParser()
    accounts.read(DOCKER / "mlflow-auth.ini")
    expected.read_string(configuration("postgresql+psycopg://modkernel@postgres:5432/mlflow_auth"))
    assert accounts == expected
    assert "CREATE DATABASE mlflow_auth;" in (DOCKER / "postgres-databases.sql").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = {one["image"] for file in (TEAM, MACHINE) for one in services(file).values()}
    worker = f"modkernel-worker:{version}"
    assert ours == {
        *("postgres:17.6-bookworm", f"modkernel-servers:{version}"),
        *(f"{worker}-cpu", f"{worker}-cuda"),
    }


@pytest.mark.parametrize("file", [TEAM, MACHINE], ids=lambda file: file.name)
def test_every_image_is_built_once(file: Path) -> None:
    """Docker builds all services at once, and cannot export one tag twice at the same time."""
    ours = {name: one for name, one in services(file).items() if one["image"].startswith("modk")}
    built = [one["image"] for one in ours.values() if "build" in one]
    assert len(built) == len(set(built))
    for name, service in ours.items():
        makers = [
            one for one in ours.values() if "build" in one and one["image"] == service["image"]
        ]
        assert len(makers) == 1, name
        if "build" not in service:
            assert service["pull_policy"] == "never", name
            assert "profiles" not in makers[0], f"{name}: what builds it takes part in every 'up'"


@pytest.mark.parametrize("file", [TEAM, MACHINE], ids=lambda file: file.name)
def test_settings_of_modkernel_reach_the_workers(file: Path) -> None:
    for name in TRAINS[file]:
        assert services(file)[name]["env_file"] == [{"path": ".env", "required": False}], name
    example = (DOCKER / ".env.example").read_text()
    named = set(re.findall(r"^#?MODKERNEL_(\w+)=", example, re.MULTILINE))
    assert "DATA_PATHS" in named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_servers_of_the_file_are_asked_directly() -> None:
    for name, service in services(TEAM).items():
        environment = service.get("environment", {})
        asked = {
            found
            for value in environment.values()
            for found in re.findall(r"://(mlflow|prefect):", value)
        }
        for variable in ("NO_PROXY", "no_proxy") if asked else ():
            assert asked <= set(environment[variable].partition("$")[0].split(",")), name


def test_what_the_head_of_the_compose_file_tells_makes_secrets_once(tmp_path: Path) -> None:
    told = TEAM.read_text().split("(the folder is yours alone")[0]
    commands = "".join(re.findall(r"^#   (.*\n)", told, re.MULTILINE))
    (tmp_path / "docker").mkdir()
    shutil.copy(DOCKER / ".env.example", tmp_path / "docker")
    openssl = tmp_path / "bin/openssl"
    openssl.parent.mkdir()
    openssl.write_text("#!/bin/sh\necho $$\n")
    openssl.chmod(0o755)
    environment = os.environ | {"PATH": f"{openssl.parent}:{os.environ['PATH']}"}

    def run() -> dict[str, str]:
        subprocess.run(["bash", "-c", commands + "pwd"], cwd=tmp_path, env=environment, check=True)
        folder = tmp_path / "docker/secrets"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        return {file.name: file.read_text() for file in folder.iterdir()}

    made = run()
    assert set(made) == set(yaml.safe_load(TEAM.read_text())["secrets"])
    assert made["prefect"].startswith("modkernel:")
    (tmp_path / "docker/.env").write_text("SERVER=ours\n")
    assert run() == made, "a second paste changes nothing, not even as root"
    assert (tmp_path / "docker/.env").read_text() == "SERVER=ours\n"
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "docker"}


def test_all_that_the_package_links_to_is_in_the_image() -> None:
    links = [path for path in (ROOT / "modkernel").rglob("*") if path.is_symlink()]
    links += [path for top in ("flows", "registry") for path in (ROOT / top).rglob("*")]
    tops = {path.resolve().relative_to(ROOT).parts[0] for path in links if path.is_symlink()}
    assert tops == {"examples", "flows", "registry"}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for top in tops:
        assert f"COPY {top} {top}\n" in (DOCKER / "Dockerfile").read_text()
        assert f"!{top}" in ignored


def test_the_servers_are_installed_without_torch() -> None:
    command = [sys.executable, "docker/dependencies.py"]
    left_out = ["--without", "torch", "torchvision"]
    both = [
        subprocess.run([*command, *more], cwd=ROOT, check=True, capture_output=True, text=True)
        for more in ([], left_out)
    ]
    every, servers = (done.stdout.splitlines() for done in both)
    assert every == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    gone = sorted(set(every) - set(servers))
    assert [line.split(">")[0] for line in gone] == ["torch", "torchvision"]
    assert " ".join(left_out) in (DOCKER / "Dockerfile").read_text()


WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision"):
    sys.modules[name] = None
import modkernel.flows.servers.prefect_server
import modkernel.registry.tracking.auth_server
from modkernel.flows.servers.doctor import upgrade
from modkernel.registry import Settings
upgrade(Settings())
"""


def test_the_servers_and_the_migration_run_without_torch(tmp_path: Path) -> None:
    environment = os.environ | {"MODKERNEL_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], env=environment, check=True)


def test_each_secret_file_becomes_a_variable_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "PGPASSWORD").write_text('it\'s "$HOME" `id`\n')
    (tmp_path / "..data").mkdir()
    script = (DOCKER / "with-secrets").read_text()
    assert script.count("/run/secrets/*") == 1
    here = script.replace("/run/secrets/*", f"{tmp_path}/*")
    show = "import os; print(os.environ['PGPASSWORD'])"
    done = subprocess.run(
        ["sh", "-c", here, "with-secrets", sys.executable, "-c", show],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == 'it\'s "$HOME" `id`\n'
    empty = script.replace("/run/secrets/*", f"{tmp_path}/none/*")
    assert subprocess.run(["sh", "-c", empty, "with-secrets", "true"]).returncode == 0


LOGINS = {"mlflow": "modkernel:mmm", "prefect": "modkernel:ppp"}
LATE = {"lately": 20, "before": 300}
"""Seconds since a worker was heard."""


@contextmanager
def both_servers(workers: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """What `check` asks, and the environment that leads it there."""

    class Server(BaseHTTPRequestHandler):
        def answer(self) -> None:
            what = "mlflow" if "mlflow" in self.path else "prefect"
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = self.headers["Authorization"] == basic_authorization(LOGINS[what])
            body = workers if self.path == "/api/work_pools/gpu/workers/filter" else []
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        name, password = LOGINS["mlflow"].split(":")
        yield {
            "MODKERNEL_MLFLOW_URI": url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
            "PREFECT_API_URL": f"{url}/api",
            "PREFECT_API_AUTH_STRING": LOGINS["prefect"],
        }
        server.shutdown()


def healthy(environment: dict[str, str], *what: str) -> bool:
    done = subprocess.run(
        [sys.executable, str(DOCKER / "check.py"), *what],
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
    )
    return done.returncode == 0


def test_health_is_a_server_that_answers_its_login_and_a_worker_that_polls() -> None:
    host, now = socket.gethostname(), datetime.now(UTC)
    heard = {name: (now - timedelta(seconds=ago)).isoformat() for name, ago in LATE.items()}
    lately = {"name": f"{host} cpu:0 CPU 8 GiB", "last_heartbeat_time": heard["lately"]}
    before = lately | {"last_heartbeat_time": heard["before"]}
    other = lately | {"name": f"{host}-2 cpu:0 CPU 8 GiB"}
    for workers, expected in (
        ([other, before, lately], True),
        ([before, other], False),
        ([], False),
    ):
        with both_servers(workers) as environment:
            assert healthy(environment, "gpu") is expected
    with both_servers([]) as environment:
        assert healthy(environment, "mlflow", "prefect")
        wrong = {"MLFLOW_TRACKING_PASSWORD": "x", "PREFECT_API_AUTH_STRING": "x"}
        for name, value in wrong.items():
            assert not healthy(environment | {name: value}, "mlflow", "prefect")
        told = services(TEAM)["mlflow"]["environment"]["NO_PROXY"].partition("$")[0]
        proxy = {"http_proxy": "http://127.0.0.1:1", "NO_PROXY": told, "no_proxy": told}
        assert healthy(environment | proxy, "mlflow", "prefect")
    assert not healthy(environment, "prefect"), "nobody answers any more"
