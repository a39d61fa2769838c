"""Who may use the servers of `modkernel up` and read the home: real servers, asked as others would.

The shared `up` runs in a pseudo-terminal, with a umask that forbids nothing.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from modkernel.flows.servers.prefect_password import basic_authorization, prefect_password
from modkernel.registry import Settings
from modkernel.spec import OutputSpec
from tests.flows.helpers.processes import ROOT, descendants
from tests.flows.helpers.servers import Up, surroundings
from tests.flows.helpers.specs import tiny

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
FOREIGN = "evil.example"
PATIENCE = 240
"""Seconds for servers to start or a run to end: test machines are shared."""
SOCKETS = ("/api/events/in", "/api/events/out", "/api/logs/out")
JSON = {"Content-Type": "application/json"}


def authorized(up: Up) -> dict[str, str]:
    return JSON | {"Authorization": basic_authorization(up.password)}


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def ask(
    server: str, method: str, path: str, headers: dict[str, str], body: Any = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer; a Host among the headers is sent as it is."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def a_deployment(up: Up) -> str:
    asked = {"deployments": {"name": {"any_": ["train-network"]}}}
    _, _, text = ask(up.prefect, "POST", "/api/deployments/filter", authorized(up), asked)
    found: str = json.loads(text)[0]["id"]
    return found


def test_prefect_asks_for_the_password(up: Up) -> None:
    attack = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]}
    deployment = f"/api/deployments/{a_deployment(up)}"
    for wrong in ({}, {"Authorization": basic_authorization("admin:pass")}):
        for method, path, body in (
            ("PATCH", deployment, attack),
            ("POST", f"{deployment}/create_flow_run", {}),
            ("POST", "/api/flow_runs/filter", {}),
            ("GET", "/api/admin/settings", None),
        ):
            status, _, text = ask(up.prefect, method, path, JSON | wrong, body)
            assert status == 401, (method, path, text)
    status, _, text = ask(up.prefect, "GET", deployment, authorized(up))
    assert (status, json.loads(text)["pull_steps"]) == (200, [])


def test_a_foreign_page_is_refused_by_both(up: Up) -> None:
    deployment = f"/api/deployments/{a_deployment(up)}"
    origin = {"Origin": f"http://{FOREIGN}"}
    wanted = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    make = "/api/2.0/mlflow/experiments/create"
    for server, path in ((up.prefect, deployment), (up.mlflow, make)):
        status, headers, _ = ask(server, "OPTIONS", path, origin | wanted)
        assert status == 400, path
        assert "access-control-allow-origin" not in headers
    # What a page may send without asking first: it is not told the answer, nor is anything done.
    plain = origin | {"Content-Type": "text/plain"}
    assert ask(up.prefect, "POST", f"{deployment}/create_flow_run", plain, {})[0] == 401
    assert ask(up.prefect, "PATCH", deployment, origin | JSON, {"paused": True})[0] == 401
    assert ask(up.mlflow, "POST", make, origin | JSON, {"name": "foreign"})[0] == 403
    for server, path in ((up.prefect, "/api/health"), (up.mlflow, "/")):
        assert "access-control-allow-origin" not in ask(server, "GET", path, origin)[1]


def test_a_foreign_host_name_is_refused_by_both(up: Up) -> None:
    """DNS rebinding: a page of a name that now points to this machine; it may know the password."""
    for server in (up.prefect, up.mlflow):
        port = port_of(server)
        for foreign in (FOREIGN, f"{FOREIGN}:{port}", f"localhost.{FOREIGN}:{port}"):
            status, _, _ = ask(server, "GET", "/", {"Host": foreign})
            assert status in (400, 403), foreign
        for own in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:9000"):
            assert ask(server, "GET", "/", {"Host": own})[0] == 200, own
    posted = authorized(up) | {"Host": FOREIGN}
    assert ask(up.prefect, "POST", "/api/flow_runs/filter", posted, {})[0] == 400
    wanted = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert ask(up.mlflow, "GET", wanted, {"Host": FOREIGN})[0] == 403


@pytest.mark.parametrize("path", SOCKETS)
def test_websockets_ask_for_the_password_and_the_host(up: Up, path: str) -> None:
    url = f"{up.prefect.replace('http', 'ws')}{path}"
    with pytest.raises(InvalidStatus, match="403"), connect(url, proxy=None):
        pass
    first = {"type": "auth", "token": "admin:pass"}
    with connect(url, subprotocols=["prefect"], proxy=None) as socket:  # type: ignore[list-item]
        socket.send(json.dumps(first))
        with pytest.raises(ConnectionClosed, match="Invalid token"):
            socket.recv(timeout=60)
    with connect(url, subprotocols=["prefect"], proxy=None) as socket:  # type: ignore[list-item]
        socket.send(json.dumps(first | {"token": up.password}))
        assert json.loads(socket.recv(timeout=60))["type"] == "auth_success"
    rebound = {"Host": FOREIGN}
    with (
        pytest.raises(InvalidStatus, match="400"),
        connect(url, additional_headers=rebound, proxy=None),
    ):
        pass


def test_the_password_is_told_on_the_terminal_and_nowhere_else(up: Up) -> None:
    assert re.search(r"password once: [0-9a-f]{32}\s", up.told)
    assert up.password in up.told
    for pid in {up.process.pid, *descendants(up.process.pid)}:
        assert up.password not in Path(f"/proc/{pid}/cmdline").read_text()
    holds = [
        path
        for path in up.home.rglob("*")
        if path.is_file() and up.password.encode() in path.read_bytes()
    ]
    assert holds == [up.home / "prefect-password"]


def test_commands_and_served_runs_find_it_and_what_they_write_is_the_users_alone(
    up: Up,
) -> None:
    """The served run trains and stores an output module on what the command has stored."""
    spec = up.home.parent / "spec.json"
    spec.write_text(tiny("by-command", (1,)).model_dump_json())
    up.modkernel("train", str(spec))
    other = tiny("by-server", (1,)).changed(output=OutputSpec(method="ridge"))
    served = {"parameters": {"spec": other.model_dump(mode="json")}}
    create = f"/api/deployments/{a_deployment(up)}/create_flow_run"
    status, _, text = ask(up.prefect, "POST", create, authorized(up), served)
    assert status == 201, text
    run, deadline = f"/api/flow_runs/{json.loads(text)['id']}", time.monotonic() + PATIENCE
    while True:
        state = json.loads(ask(up.prefect, "GET", run, authorized(up))[2])["state"]
        if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            break
        assert time.monotonic() < deadline, state
        time.sleep(0.5)
    assert state["type"] == "COMPLETED", state
    _, _, text = ask(up.prefect, "POST", "/api/flow_runs/filter", authorized(up), {})
    names = {one["parameters"].get("spec", {}).get("name") for one in json.loads(text)}
    assert {"by-command", "by-server"} <= names, "the command's run is on the server"

    everything = [up.home, *up.home.rglob("*")]
    assert len(everything) > 100
    loose = {str(path): oct(mode) for path in everything if (mode := rights(path)) & 0o077}
    assert loose == {}
    assert rights(up.home) == 0o700


def rights(path: Path) -> int:
    with suppress(FileNotFoundError):  # The servers are at work.
        mode = path.lstat().st_mode
        return 0 if stat.S_ISLNK(mode) else stat.S_IMODE(mode)
    return 0


TEMPORARY = """
import sys
from modkernel.flows.servers.prefect_env import prepare_prefect
from modkernel.registry import Settings
prepare_prefect(Settings(), quiet=True)
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(client.read_flow_runs(), client.api_url, flush=True)
    input()
"""


@pytest.mark.long
def test_prefects_own_temporary_server_asks_for_the_password(
    template: Path, tmp_path: Path
) -> None:
    """The one that Prefect starts for a script of one's own; test_cli_run asks a command's."""
    environment, _, _ = surroundings(tmp_path / "home")
    shutil.copytree(template / "prefect", tmp_path / "home" / "prefect")
    with subprocess.Popen(
        [sys.executable, "-c", TEMPORARY],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"\[\] http://127\.0\.0\.1:(\d+)/api/\n", process.stdout.readline())
        assert found is not None
        server = f"http://127.0.0.1:{found[1]}"
        assert ask(server, "POST", "/api/flow_runs/filter", JSON, {})[0] == 401
        password = prefect_password(Settings(home=tmp_path / "home"))
        right = JSON | {"Authorization": basic_authorization(password)}
        assert ask(server, "POST", "/api/flow_runs/filter", right, {})[0] == 200
        process.communicate("\n", timeout=60)


class Listener(BaseHTTPRequestHandler):
    """Somebody's server, which notes what it is sent."""

    seen: list[str]

    def do_GET(self) -> None:
        self.note()

    def do_POST(self) -> None:
        self.note()

    def note(self) -> None:
        self.seen.append(f"{self.path} {self.headers}")
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        return


FOREIGN_CLIENT = """
from modkernel.flows.servers.prefect_env import prepare_prefect, require_prefect
from modkernel.registry import Settings
prepare_prefect(Settings(), quiet=True)
require_prefect()
from prefect.client.orchestration import get_client
try:
    with get_client(sync_client=True) as client:
        client.read_flow_runs()
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize(
    "where", ["environment", pytest.param("prefect.toml", marks=pytest.mark.long)]
)
def test_no_other_server_is_sent_the_password(tmp_path: Path, where: str) -> None:
    environment, _, _ = surroundings(tmp_path / "home")
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_CLIENT_MAX_RETRIES": "0"}
    password = prefect_password(Settings(home=tmp_path / "home"))
    handler = type("Noting", (Listener,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        if where == "environment":
            environment["PREFECT_API_URL"] = url
        else:
            (tmp_path / "prefect.toml").write_text(f'[api]\nurl = "{url}"\n')
        subprocess.run(
            [sys.executable, "-c", FOREIGN_CLIENT],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
        )
        server.shutdown()
    sent = "".join(handler.seen)
    assert "prefect/3" in sent, "Prefect itself asked"
    assert "authorization" not in sent.lower()
    assert password not in sent
