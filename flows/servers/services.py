"""The two servers of `modkernel up`, as child processes."""

from __future__ import annotations

import shlex
import sys

from modkernel.flows.servers.prefect_password import OWN_SERVER
from modkernel.flows.servers.reach import Reach, answers
from modkernel.flows.servers.supervisor import Service
from modkernel.registry import Settings
from modkernel.registry.tracking import login

TEMPORARY = {
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
}
"""What a server that lives as long as one command leaves to the one of `modkernel up`."""


def mlflow_service(settings: Settings, reached: Reach) -> Service:
    """MLflow's server: for other machines one with logins, which keeps the artifacts for them.

    Args:
        settings: of the home.
        reached: how it is to be reached.

    Raises:
        SettingsError: its password cannot be made or read.
    """
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    port = settings.mlflow_port
    options = ["--host", reached.host, "--port", str(port), "--workers", "1"]
    # A line for each request would fill the home: a team makes several a second.
    uvicorn = ["--no-access-log"]
    if reached.is_shared:
        program = ["modkernel.registry.tracking.auth_server"]
        options += ["--artifacts-destination", str(settings.artifact_root)]
        hosts = [form for name in reached.names for form in (name, f"{name}:*")]
        options += ["--allowed-hosts", ",".join(hosts)]
        options += ["--cors-allowed-origins", ",".join(reached.urls(port))]
        if reached.certificate is not None:
            uvicorn += ["--ssl-certfile", str(reached.certificate)]
            uvicorn += ["--ssl-keyfile", str(reached.key)]
        environment |= login.server_environment(settings)
        store = settings.mlflow_store
    else:
        program = ["mlflow", "server"]
        options += ["--no-serve-artifacts", "--default-artifact-root", str(settings.artifact_root)]
        store = settings.mlflow_uri
    return Service(
        name="MLflow's server",
        command=[sys.executable, "-m", *program, *options, "--uvicorn-opts", shlex.join(uvicorn)],
        # Not as an argument: everyone on the machine can read those.
        environment=environment | {"MLFLOW_BACKEND_STORE_URI": store},
        log=settings.home / "logs" / "mlflow.log",
        ready=lambda: answers(f"{reached.url(port)}/health", reached.certificate),
    )


def prefect_service(
    settings: Settings,
    port: int,
    password: str,
    temporary: bool = False,
    reached: Reach = Reach(),  # noqa: B008 (frozen)
) -> Service:
    """Prefect's server on a port of this machine, with the home's database.

    Args:
        settings: of the home.
        port: that is free.
        password: that it asks for.
        temporary: for one command: without its page, and leaving schedules to others.
        reached: how it is to be reached.
    """
    url, name = reached.url(port), "prefect-temporary" if temporary else "prefect"
    page = {
        # The page needs none: it asks the server that it comes from. Prefect's default is '*'.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(reached.urls(port)[:1]),
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_UI_STATIC_DIRECTORY": str(settings.home / "prefect" / "ui"),
    }
    options = list(reached.names) if reached.is_shared else []
    if reached.certificate is not None:
        options += [f"--ssl-certfile={reached.certificate}", f"--ssl-keyfile={reached.key}"]
    return Service(
        name="Prefect's temporary server" if temporary else "Prefect's server",
        command=[sys.executable, "-m", "modkernel.flows.servers.prefect_server", *options],
        environment={
            "PREFECT_HOME": str(settings.home / "prefect"),
            "PREFECT_SERVER_API_HOST": reached.host,
            "PREFECT_SERVER_API_PORT": str(port),
            OWN_SERVER: password,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "modkernel.flows.servers.event_order",
            **(TEMPORARY if temporary else page),
        },
        log=settings.home / "logs" / f"{name}.log",
        ready=lambda: answers(f"{url}/api/health", reached.certificate),
    )
