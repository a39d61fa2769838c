"""`modkernel up`: MLflow's server, Prefect's server and our deployments, as one thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modkernel.errors import ServiceError, SettingsError
from modkernel.flows.servers.prefect_password import (
    OWN_SERVER,
    basic_authorization,
    password_file,
    prefect_password,
)
from modkernel.flows.servers.reach import (
    HOST,
    Reach,
    answers,
    direct,
    port_is_free,
    reach,
    shares_mlflow,
    trust,
)
from modkernel.flows.servers.services import mlflow_service, prefect_service
from modkernel.flows.servers.supervisor import (
    POLL_SECONDS,
    Service,
    Supervisor,
    end_with_parent,
    stop_signals,
)
from modkernel.registry import Settings
from modkernel.registry.settings import without_secrets
from modkernel.registry.tracking import login
from modkernel.system.files import replace_file
from modkernel.system.proxies import ask_directly


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
    certificate: str = ""
    """File of what the servers show, where they speak TLS."""

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
    return state if answers(f"{state.prefect_api}/health", state.certificate) else None


def up(
    settings: Settings, say: Callable[[str], None], secretly: bool = False, host: str = HOST
) -> None:
    """Start everything, tell the links, keep it running until SIGINT or SIGTERM, stop it.

    A process that dies later is started again.

    Args:
        settings: of the home.
        say: is told each line.
        secretly: what is said is seen by the user alone (a terminal, not a log file), so the
            password of Prefect's page may be among it.
        host: name or address of this machine to listen on; other than 127.0.0.1 lets others in.

    Raises:
        SettingsError: a port is in use, the home cannot be written, or others would be let in
            without a login; nothing was started.
        ServiceError: a process never answered, or died again and again; the others were stopped.
            Or what prepares the databases was killed.
        SystemExit: a database cannot be used, as the terminal was told.
    """
    reached = reach(settings, host)
    check_ports(settings, reached)
    _prepare_apart(shares_mlflow(settings, reached))
    state = UpState(
        pid=os.getpid(),
        prefect_url=reached.url(settings.prefect_port),
        mlflow_url=_external_mlflow(settings) or reached.url(settings.mlflow_port),
        started=_started(os.getpid()),
        home=str(settings.home),
        certificate=str(reached.certificate or ""),
    )
    password = prefect_password(settings)
    if reached.is_shared and reached.certificate is None:
        say(
            "Passwords and data go over the network in clear text: set MODKERNEL_TLS_CERTIFICATE "
            "and MODKERNEL_TLS_KEY, or reach this machine through a VPN or a proxy that does TLS."
        )
    with stop_signals() as stopped, Supervisor() as children:
        services = _services(settings, state, reached, password)
        for service in services:
            say(f"Starting {service.name} (log: {service.log}) ...")
        if not children.start(services, stopped):
            return
        replace_file(_state_file(settings), json.dumps(asdict(state)).encode())
        try:
            say(f"MLflow, models:  {state.models_url}")
            say(f"Prefect, flows:  {state.prefect_url}")
            say(f"Its page asks for a password once: {password if secretly else _where(settings)}")
            if shares_mlflow(settings, reached):
                say(f"MLflow's asks for name and password: {_login(settings)}")
            say("Ctrl-C stops everything.")
            while not stopped():
                children.restart_dead(say)
                time.sleep(POLL_SECONDS)
            say("Stopping ...")
        finally:
            _state_file(settings).unlink(missing_ok=True)


def prepare_stores(settings: Settings, served: bool) -> None:
    """Make or check both databases, which two servers could race for.

    Args:
        settings: of the home.
        served: MLflow's is that of a server that keeps the artifacts for others.

    Raises:
        SchemaVersionError: one has another schema version.
        StoreError: one does not answer.
    """
    # No more of the registry than that: servers in a container of their own have no torch.
    from modkernel.registry.sql.engine import open_database
    from modkernel.registry.tracking.client import open_mlflow
    from modkernel.registry.tracking.served import prepare_store

    open_database(settings).close()
    if served:
        prepare_store(settings)
    else:
        open_mlflow(settings)


def _prepare_apart(served: bool) -> None:
    """`prepare_stores` in a process of its own: what MLflow takes of memory, it takes with it.

    `up` would have it for weeks.
    """
    command = [sys.executable, "-m", "modkernel.flows.cli", "prepare-home"]
    done = subprocess.run([*command, *["--served"] * served], preexec_fn=end_with_parent)
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
        raise ServiceError(
            f"The process that prepares the databases was ended by {how}: nothing was started. "
            "Was there enough memory? Then run 'modkernel up' again."
        )
    if done.returncode:
        sys.exit(done.returncode)


def check_ports(settings: Settings, reached: Reach = Reach()) -> None:  # noqa: B008 (frozen)
    """Check that the ports of both servers are free.

    Args:
        settings: of the home.
        reached: how they are to be reached.

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
    if not reached.is_shared and login.runs_here(settings):
        host = urlsplit(settings.mlflow_uri).hostname or HOST
        if port_is_free(settings.mlflow_port, host):
            raise SettingsError(
                f"MODKERNEL_MLFLOW_URI is port {settings.mlflow_port} of this machine, where no "
                "server listens: 'modkernel up --host HOST', a name that other machines know, runs "
                "MLflow's there for a team; for this machine alone, unset MODKERNEL_MLFLOW_URI."
            )
    ports = {"PREFECT": settings.prefect_port, "MLFLOW": settings.mlflow_port}
    if _external_mlflow(settings) and not shares_mlflow(settings, reached):
        del ports["MLFLOW"]
    for name, port in ports.items():
        if not port_is_free(port, reached.host):
            raise SettingsError(
                f"Port {port} is in use: stop what uses it, or set MODKERNEL_{name}_PORT to "
                "another."
            )


def _where(settings: Settings) -> str:
    """Where the password is, for those who may read it."""
    if OWN_SERVER in os.environ:
        return f"that of {OWN_SERVER}"
    return f"it is in {password_file(settings)}"


def _login(settings: Settings) -> str:
    """Who may log in to MLflow; its page keeps no secret, so the password is told nowhere."""
    name = login.admin_login(settings)[0]
    own = login.ADMIN_PASSWORD in os.environ
    where = f"that of {login.ADMIN_PASSWORD}" if own else f"in {login.password_file(settings)}"
    return f"{name}, and the password is {where}"


def _services(settings: Settings, state: UpState, reached: Reach, password: str) -> list[Service]:
    since = datetime.now(UTC)
    prefect = prefect_service(settings, settings.prefect_port, password, reached=reached)
    direct = dict(os.environ)
    ask_directly(direct, [reached.name])
    # Whoever looks for moved aliases reads the database: to be asked takes the server seconds.
    is_ours = shares_mlflow(settings, reached)
    store = {"MODKERNEL_MLFLOW_STORE": settings.mlflow_store} if is_ours else {}
    deployments = Service(
        name="the deployments",
        command=[sys.executable, "-m", "modkernel.flows.cli", "serve"],
        environment={
            "PREFECT_API_URL": state.prefect_api,
            "PREFECT_API_AUTH_STRING": password,
            **{name: direct[name] for name in ("NO_PROXY", "no_proxy")},
            **trust(state.certificate),
            **store,
        },
        log=settings.home / "logs" / "deployments.log",
        ready=lambda: _served(state, since, password),
    )
    if _external_mlflow(settings) and not shares_mlflow(settings, reached):
        return [prefect, deployments]
    return [mlflow_service(settings, reached), prefect, deployments]


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
    url = f"{state.prefect_api}/deployments/filter"
    deployments = _post(url, ours, password, state.certificate)
    polled = [one["last_polled"] for one in deployments or ()]
    return any(at and datetime.fromisoformat(at) > since for at in polled)


def _post(url: str, body: dict[str, Any], password: str, certificate: str) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    request.add_unredirected_header("Authorization", basic_authorization(password))
    try:
        with direct(certificate).open(request, timeout=5) as response:
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
