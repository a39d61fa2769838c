"""`modkernel up --host` with TLS for real, asked as another machine does.

127.0.0.2 stands for the address that others reach: nothing of the servers is on 127.0.0.1.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modkernel.flows.servers.prefect_password import basic_authorization
from modkernel.registry import Settings
from modkernel.registry.tracking.login import admin_login
from tests.flows.helpers.certificates import self_signed
from tests.flows.helpers.processes import ROOT, descendants
from tests.flows.helpers.servers import Up, running_up, surroundings
from tests.flows.helpers.specs import tiny

pytestmark = [
    pytest.mark.long,
    pytest.mark.servers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is there on Linux alone"),
]
ADDRESS = "127.0.0.2"
MLFLOW_PATHS = (
    "/",
    "/version",
    "/graphql",
    "/signup",
    "/get-artifact",
    "/api/2.0/mlflow/experiments/search?max_results=1",
    "/api/2.0/mlflow/registered-models/search",
    "/api/2.0/mlflow-artifacts/artifacts",
    "/ajax-api/2.0/mlflow-artifacts/artifacts/1/x/artifacts/weights.safetensors",
    "/ajax-api/3.0/mlflow/assistant/config",
    "/ajax-api/3.0/jobs",
    "/v1/traces",
)


@dataclass(frozen=True)
class Shared:
    """A running `up --host`, its certificate, and MLflow's password."""

    up: Up
    certificate: Path
    mlflow_password: str

    def status(self, url: str, login: str | None = None, host: str | None = None) -> int:
        """Status of an answer, over TLS that is verified."""
        request = urllib.request.Request(url)
        if login is not None:
            request.add_header("Authorization", basic_authorization(login))
        if host is not None:
            request.add_header("Host", host)
        context = ssl.create_default_context(cafile=str(self.certificate))
        ask = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with ask.open(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    home = folder / "ein Häuschen & mehr"
    shutil.copytree(template, home)
    certificate, key = self_signed(folder, ADDRESS)
    environment, mlflow_port, _ = surroundings(home)
    environment |= {
        "MODKERNEL_MLFLOW_URI": f"https://{ADDRESS}:{mlflow_port}",
        "MODKERNEL_TLS_CERTIFICATE": str(certificate),
        "MODKERNEL_TLS_KEY": str(key),
    }
    with running_up(home, environment, "--host", ADDRESS) as up:
        yield Shared(up, certificate, admin_login(Settings(home=home))[1])


def test_both_servers_ask_for_a_login_everywhere(shared: Shared) -> None:
    up, login = shared.up, f"modkernel:{shared.mlflow_password}"
    assert {url.rpartition(":")[0] for url in (up.mlflow, up.prefect)} == {f"https://{ADDRESS}"}
    for path in MLFLOW_PATHS:
        assert shared.status(up.mlflow + path) == 401, path
        assert shared.status(up.mlflow + path, "modkernel:password1234") == 401, path
        assert shared.status(up.mlflow + path, login) not in (401, 403), path
    settings = f"{up.prefect}/api/admin/settings"
    assert [shared.status(settings), shared.status(settings, up.password)] == [401, 200]
    assert shared.status(f"{up.mlflow}/", login, "evil.example") == 403
    assert shared.status(settings, up.password, "evil.example") == 400
    for url in (f"{up.mlflow}/", settings):
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url)


def test_passwords_are_in_no_command_line_and_no_log(shared: Shared) -> None:
    up, passwords = shared.up, (shared.mlflow_password, shared.up.password)
    assert shared.mlflow_password not in up.told
    for pid in {up.process.pid, *descendants(up.process.pid)}:
        line = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(password in line for password in passwords)
    for log in (up.home / "logs").iterdir():
        assert not any(password in log.read_text() for password in passwords), log


def test_another_machine_stores_a_flow_through_both(shared: Shared, tmp_path: Path) -> None:
    up, spec = shared.up, tmp_path / "spec.json"
    spec.write_text(tiny("from-afar").model_dump_json())
    clean = ("MODKERNEL", "MLFLOW", "PREFECT")
    client = {name: value for name, value in up.environment.items() if not name.startswith(clean)}
    client |= {
        "NO_PROXY": ADDRESS,
        "PYTHONPATH": str(ROOT),
        "MODKERNEL_HOME": str(tmp_path / "home"),
        "MODKERNEL_DATABASE_URL": f"sqlite:///{up.home}/registry.db",
        "MODKERNEL_MLFLOW_URI": up.mlflow,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(shared.certificate),
        "PREFECT_API_URL": f"{up.prefect}/api",
        "PREFECT_API_SSL_CERT_FILE": str(shared.certificate),
    }
    command = [sys.executable, "-m", "modkernel.flows.cli", "train", str(spec), "--json"]

    def train(**login: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env=client | login, capture_output=True, text=True, timeout=300
        )

    prefect = {"PREFECT_API_AUTH_STRING": up.password}
    refused = train(**prefect)
    assert refused.returncode == 1
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in refused.stderr
    mlflow = {"MLFLOW_TRACKING_USERNAME": "modkernel"}
    mlflow["MLFLOW_TRACKING_PASSWORD"] = shared.mlflow_password
    done = train(**prefect, **mlflow)
    assert done.returncode == 0, done.stderr
    # The bytes are with the server, and commands there find all of it.
    assert list((up.home / "artifacts").rglob("weights.safetensors"))
    assert not list((tmp_path / "home").rglob("artifacts/*/weights.safetensors"))
    names = json.dumps(up.modkernel("modules", "list"))
    assert "from-afar" in names
    assert up.modkernel("verify") == []
