"""Which Prefect server flows use."""

from __future__ import annotations

import contextvars
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import prefect.context
import pytest
from prefect.flow_engine import FlowRunEngine

import modkernel.flows
from modkernel.errors import ServiceError
from modkernel.flows.module_work import module_work
from modkernel.flows.servers import prefect_env, up
from modkernel.flows.servers.automations import SILENT
from modkernel.flows.servers.prefect_env import await_prefect, prepare_prefect, require_prefect
from modkernel.flows.servers.prefect_password import basic_authorization, prefect_password
from modkernel.flows.servers.up import UpState, without_user
from modkernel.registry import Settings
from tests.flows.helpers.servers import surroundings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # What is read of this home is not to outlive the test.
    name = "GLOBAL_SETTINGS_CONTEXT"
    monkeypatch.setattr(prefect.context, name, getattr(prefect.context, name))
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return Settings(home=tmp_path / "home")


def test_nothing_of_the_users_is_touched(settings: Settings) -> None:
    prepare_prefect(settings, quiet=True)
    assert os.environ["PREFECT_HOME"] == str(settings.home / "prefect")
    assert Path(os.environ["PREFECT_HOME"]).is_dir(), "Prefect makes the last folder alone"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "PREFECT_API_URL" not in os.environ
    password = prefect_password(settings)
    assert os.environ["PREFECT_API_AUTH_STRING"] == password
    assert os.environ["PREFECT_SERVER_API_AUTH_STRING"] == password


def test_a_flow_that_is_imported_after_prefect_is_not_taken_for_dead(settings: Settings) -> None:
    """As in a pod: `prefect flow-run execute` imports Prefect, and the flow later."""

    def beats() -> int | None:
        return contextvars.Context().run(lambda: FlowRunEngine(flow=module_work).heartbeat_seconds)

    prefect.context.refresh_global_settings_context()
    assert (beats() or 0) > SILENT.total_seconds(), "Prefect's own default"
    importlib.reload(modkernel.flows)
    assert 2 * (beats() or 0) < SILENT.total_seconds()


def test_the_server_of_modkernel_up_is_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = UpState(os.getpid(), "http://127.0.0.1:4299", "http://127.0.0.1:5099")
    monkeypatch.setattr(prefect_env, "running", lambda _: state)
    prepare_prefect(settings)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4299/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == prefect_password(settings)


def test_a_copy_of_a_home_has_not_its_servers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(up, "answers", lambda *_: True)
    settings.ensure_home()
    started, home = up._started(os.getpid()), str(settings.home)
    state = UpState(os.getpid(), "http://a", "http://b", started, home)
    (settings.home / "up.json").write_text(json.dumps(asdict(state)))
    assert up.running(settings) is not None
    copy = Path(shutil.copytree(settings.home, tmp_path / "copy"))
    assert up.running(Settings(home=copy)) is None


def test_its_link_typed_by_hand_is_known(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = UpState(os.getpid(), "http://127.0.0.1:4299", "http://127.0.0.1:5099")
    monkeypatch.setattr(prefect_env, "running", lambda _: state)
    os.environ["PREFECT_API_URL"] = state.prefect_api
    prepare_prefect(settings)
    assert os.environ["PREFECT_API_AUTH_STRING"] == prefect_password(settings)
    os.environ["PREFECT_API_URL"] = "http://127.0.0.1:4298/api"
    del os.environ["PREFECT_API_AUTH_STRING"]
    prepare_prefect(settings)
    assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_what_the_user_set_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["PREFECT_API_URL"] = "http://prefect.example/api"
    os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "5"
    prepare_prefect(settings)
    assert "PREFECT_API_AUTH_STRING" not in os.environ
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "5"
    assert "PREFECT_HOME" not in os.environ


def test_a_server_that_is_not_there_is_one_sentence(settings: Settings) -> None:
    require_prefect()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://anna:hunter2@127.0.0.1:{port}/api"
    with pytest.raises(ServiceError, match=r"does not answer: .*refused.*unset PREFECT") as caught:
        require_prefect()
    assert "hunter2" not in str(caught.value)


def test_a_server_that_starts_later_is_waited_for(settings: Settings) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    told: list[str] = []
    with pytest.raises(ServiceError, match="does not answer"):
        await_prefect(told.append, seconds=0.3)
    servers: list[ThreadingHTTPServer] = []

    def start() -> None:
        servers.append(ThreadingHTTPServer(("127.0.0.1", port), Answering))
        servers[0].serve_forever()

    threading.Timer(0.5, start).start()
    await_prefect(told.append, seconds=60)
    assert len(told) == 2
    assert f"127.0.0.1:{port}" in told[0]
    servers[0].shutdown()
    servers[0].server_close()


@pytest.mark.parametrize(
    ("sent", "said"), [(None, "asks for a password"), ("x", "refuses PREFECT_API_AUTH_STRING")]
)
def test_a_server_that_wants_another_password_is_one_sentence(
    settings: Settings, sent: str | None, said: str
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{server.server_port}/api"
        if sent is not None:
            os.environ["PREFECT_API_AUTH_STRING"] = sent
        remedy = "set PREFECT_API_AUTH_STRING to .* 'prefect-password' "
        with pytest.raises(ServiceError, match=f"{said}: {remedy}"):
            require_prefect()
        os.environ["PREFECT_API_KEY"] = "another way to log in"
        require_prefect()
        server.shutdown()


def test_a_link_to_somebody_elses_server_shows_no_password() -> None:
    assert without_user("http://anna:hunter2@mlflow:5000/x") == "http://mlflow:5000/x"
    assert without_user("https://mlflow/") == "https://mlflow/"


def test_a_program_that_imports_a_flow_reports_nothing_home() -> None:
    ask = (
        "import modkernel.flows.runtime.events, os, sys; "
        "print(os.environ['DO_NOT_TRACK'], 'prefect' in sys.modules)"
    )
    bare = {name: value for name, value in os.environ.items() if name != "DO_NOT_TRACK"}
    done = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=Path(__file__).parents[2],
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "False"]


A_COMMAND = """
import sys
from modkernel.flows.runtime import shared
from modkernel.flows.servers import prefect_env
shared.fork_server = lambda: type("NoServer", (), {"start": lambda self: None})()
prepare = prefect_env.prepare_prefect

def prepare_after_prefect(settings, quiet):
    print("prefect" in sys.modules)
    import prefect.main
    prepare(settings, quiet)

prefect_env.prepare_prefect = prepare_after_prefect
from modkernel.flows.cli._run_flow import flow_running
with flow_running(False):
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        print(client.api_url, client.api_healthcheck())
"""


@pytest.mark.long
def test_a_commands_flow_runs_on_the_server_of_modkernel_up_even_if_prefect_came_first(
    tmp_path: Path,
) -> None:
    seen: list[tuple[str, str | None]] = []

    class Noting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    environment, _, _ = surroundings(tmp_path / "home")
    settings = Settings(home=tmp_path / "home")
    settings.ensure_home()
    with ThreadingHTTPServer(("127.0.0.1", 0), Noting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        own = up._started(os.getpid())
        state = UpState(os.getpid(), url, "http://127.0.0.1:1", own, str(settings.home))
        (settings.home / "up.json").write_text(json.dumps(asdict(state)))
        done = subprocess.run(
            [sys.executable, "-c", A_COMMAND],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.stdout.splitlines() == ["False", f"{url}/api/ None"], done.stderr
    sent = basic_authorization(prefect_password(settings))
    asked = [path for path, authorization in seen if authorization == sent]
    assert asked == ["/api/admin/version", "/api/health"]
