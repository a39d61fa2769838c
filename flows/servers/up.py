"""`modkernel up`: MLflow's server, Prefect's server and our deployments, as one thing."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modkernel.errors import SettingsError
from modkernel.flows.servers.prefect_password import (
    OWN_SERVER,
    basic_authorization,
    password_file,
    prefect_password,
)
from modkernel.flows.servers.supervisor import POLL_SECONDS, Service, Supervisor, stop_signals
from modkernel.registry import Registry, Settings
from modkernel.registry.settings import without_secrets
from modkernel.system.files import replace_file

HOST = "127.0.0.1"
TEMPORARY = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
}
"""What a server that lives as long as one command leaves to the one of `modkernel up`."""
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks servers of this machine itself, whatever proxy is set: it would see the password."""


@dataclass(frozen=True)
class UpState:
    """What HOME/up.json says while `modkernel up` runs."""

    pid: int
    prefect_url: str
    mlflow_url: str
    started: str = ""
    """When the process began, as the system counts: another one may get its number."""
    home: str = ""
    """Which home: a copy of it has a copy of this file."""

    @property
    def prefect_api(self) -> str:
        """What PREFECT_API_URL must be."""
        return f"{self.prefect_url}/api"

    @property
    def models_url(self) -> str:
        """MLflow's page of registered models: without the query it opens in another mode."""
        return f"{self.mlflow_url}/#/models?workflowType=machine_learning"


def running(settings: Settings) -> UpState | None:
    """The servers that `modkernel up` runs for this home, if they answer."""
    try:
        state = UpState(**json.loads(_state_file(settings).read_text()))
        os.kill(state.pid, 0)
        if state.started != _started(state.pid) or not settings.home.samefile(state.home):
            return None
    except (OSError, ValueError, TypeError):
        return None
    return state if _answers(f"{state.prefect_api}/health") else None


def up(settings: Settings, say: Callable[[str], None], secretly: bool = False) -> None:
    """Start everything, tell the links, keep it running until SIGINT or SIGTERM, stop it.

    A process that dies later is started again.

    Args:
        settings: of the home.
        say: is told each line.
        secretly: what is said is seen by the user alone (a terminal, not a log file), so the
            password of Prefect's page may be among it.

    Raises:
        SettingsError: a port is in use, or the home cannot be written; nothing was started.
        ServiceError: a process never answered, or died again and again; the others were stopped.
        StoreError: the registry's database cannot be used.
    """
    check_ports(settings)
    # Migrates both databases before two servers can race for it.
    Registry.open(settings).close()
    state = UpState(
        pid=os.getpid(),
        prefect_url=f"http://{HOST}:{settings.prefect_port}",
        mlflow_url=_external_mlflow(settings) or f"http://{HOST}:{settings.mlflow_port}",
        started=_started(os.getpid()),
        home=str(settings.home),
    )
    password = prefect_password(settings)
    with stop_signals() as stopped, Supervisor() as children:
        services = _services(settings, state, password)
        for service in services:
            say(f"Starting {service.name} (log: {service.log}) ...")
        if not children.start(services, stopped):
            return
        replace_file(_state_file(settings), json.dumps(asdict(state)).encode())
        try:
            say(f"MLflow, models:  {state.models_url}")
            say(f"Prefect, flows:  {state.prefect_url}")
            say(f"Its page asks for a password once: {password if secretly else _where(settings)}")
            say("Ctrl-C stops everything.")
            while not stopped():
                children.restart_dead(say)
                time.sleep(POLL_SECONDS)
            say("Stopping ...")
        finally:
            _state_file(settings).unlink(missing_ok=True)


def check_ports(settings: Settings) -> None:
    """Check that the ports of both servers are free.

    Raises:
        SettingsError: one is not; the message names it and its setting.
    """
    state = running(settings)
    if state is not None:
        raise SettingsError(
            f"'modkernel up' already runs for this home: use {state.models_url} and "
            f"{state.prefect_url}, or stop it first (process {state.pid})."
        )
    if settings.mlflow_port == settings.prefect_port:
        raise SettingsError(
            f"Port {settings.mlflow_port} is set for both servers: set MODKERNEL_MLFLOW_PORT or "
            "MODKERNEL_PREFECT_PORT to another."
        )
    ports = {"PREFECT": settings.prefect_port, "MLFLOW": settings.mlflow_port}
    if _external_mlflow(settings):
        del ports["MLFLOW"]
    for name, port in ports.items():
        if not port_is_free(port):
            raise SettingsError(
                f"Port {port} is in use: stop what uses it, or set MODKERNEL_{name}_PORT to "
                "another."
            )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _where(settings: Settings) -> str:
    """Where the password is, for those who may read it."""
    if OWN_SERVER in os.environ:
        return f"that of {OWN_SERVER}"
    return f"it is in {password_file(settings)}"


def _services(settings: Settings, state: UpState, password: str) -> list[Service]:
    logs, since = settings.home / "logs", datetime.now(UTC)
    python = [sys.executable, "-m"]
    mlflow = Service(
        name="MLflow's server",
        command=[
            *python,
            *("mlflow", "server", "--host", HOST, "--port", str(settings.mlflow_port)),
            *("--workers", "1", "--no-serve-artifacts"),
            *("--default-artifact-root", str(settings.artifact_root)),
        ],
        environment={
            # Not as an argument: everyone on the machine can read those.
            "MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        log=logs / "mlflow.log",
        ready=lambda: _answers(f"{state.mlflow_url}/health"),
    )
    prefect = prefect_service(settings, settings.prefect_port, password)
    deployments = Service(
        name="the deployments",
        command=[*python, "modkernel.flows.cli", "serve"],
        environment={
            "PREFECT_API_URL": state.prefect_api,
            "PREFECT_API_AUTH_STRING": password,
        },
        log=logs / "deployments.log",
        ready=lambda: _served(state, since, password),
    )
    return [*([] if _external_mlflow(settings) else [mlflow]), prefect, deployments]


def prefect_service(
    settings: Settings, port: int, password: str, temporary: bool = False
) -> Service:
    """Prefect's server on a port of this machine, with the home's database.

    Args:
        settings: of the home.
        port: that is free.
        password: that it asks for.
        temporary: for one command: without its page, and leaving schedules to others.
    """
    url, name = f"http://{HOST}:{port}", "prefect-temporary" if temporary else "prefect"
    page = {
        # The page needs none: it asks the server that it comes from. Prefect's default is '*'.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_UI_STATIC_DIRECTORY": str(settings.home / "prefect" / "ui"),
    }
    return Service(
        name="Prefect's temporary server" if temporary else "Prefect's server",
        command=[sys.executable, "-m", "modkernel.flows.servers.prefect_server"],
        environment={
            "PREFECT_HOME": str(settings.home / "prefect"),
            "PREFECT_SERVER_API_HOST": HOST,
            "PREFECT_SERVER_API_PORT": str(port),
            OWN_SERVER: password,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "modkernel.flows.servers.event_order",
            **(TEMPORARY if temporary else page),
        },
        log=settings.home / "logs" / f"{name}.log",
        ready=lambda: _answers(f"{url}/api/health"),
    )


def _external_mlflow(settings: Settings) -> str | None:
    """URL of a server that somebody else runs, if MLflow is set to one; without a password."""
    uri = settings.mlflow_uri
    return without_user(uri).rstrip("/") if uri.startswith(("http://", "https://")) else None


def without_user(url: str) -> str:
    """A URL without user and password: what may be shown and still be followed."""
    parts = urlsplit(url)
    return without_secrets(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())


def _served(state: UpState, since: datetime, password: str) -> bool:
    """Whether work was asked for after `since`: that begins once all deployments are made.

    The server also lists a user's own deployments and retired ones, which nobody may serve.
    """
    ours = {"deployments": {"tags": {"all_": ["modkernel"]}}}
    deployments = _post(f"{state.prefect_api}/deployments/filter", ours, password)
    polled = [one["last_polled"] for one in deployments or ()]
    return any(at and datetime.fromisoformat(at) > since for at in polled)


def _answers(url: str) -> bool:
    try:
        with _direct.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _post(url: str, body: dict[str, Any], password: str) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    request.add_unredirected_header("Authorization", basic_authorization(password))
    try:
        with _direct.open(request, timeout=5) as response:
            return json.load(response)
    except OSError:
        return None


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _state_file(settings: Settings) -> Path:
    return settings.home / "up.json"
