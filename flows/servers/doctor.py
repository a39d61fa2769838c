"""`modkernel doctor`: what is there, what is wrong, and how to fix it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from modkernel.errors import ModkernelError
from modkernel.flows.servers.reach import port_is_free
from modkernel.flows.servers.up import running, without_user
from modkernel.registry.settings import Settings

PACKAGES = ("torch", "torchvision", "numpy", "prefect", "mlflow", "sqlalchemy")
LOW_DISK_BYTES = 5 * 2**30
NO_DISK_BYTES = 2**29


class Finding(BaseModel):
    """One thing that the doctor looked at."""

    model_config = ConfigDict(frozen=True)

    check: str
    status: Literal["ok", "note", "wrong"] = Field(description="note: works, but worth knowing.")
    found: str
    remedy: str | None = Field(None, description="What to do, where something is to be done.")


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Look at everything; a check that fails never hides the others."""
    return tuple(finding for check in CHECKS for finding in _guarded(check, settings))


def upgrade(settings: Settings) -> tuple[str, ...]:
    """Bring both databases to the schema of what is installed; a line for each.

    Raises:
        StoreError: a database cannot be upgraded.
    """
    from modkernel.registry.sql.engine import upgrade_database
    from modkernel.registry.tracking.client import upgrade_mlflow

    if _runs_mlflow(settings):
        settings = settings.model_copy(update={"mlflow_uri": settings.mlflow_store})
    lines = [f"The registry's database has schema version {upgrade_database(settings)}."]
    if settings.mlflow_uri.startswith(("http://", "https://")):
        lines.append("MLflow is a server: it upgrades its own database.")
    else:
        upgrade_mlflow(settings)
        lines.append(f"MLflow's database has the schema of MLflow {version('mlflow')}.")
    return tuple(lines)


def _runs_mlflow(settings: Settings) -> bool:
    """Whether the MLflow server of the settings is the one of this home's `up --host`."""
    from modkernel.registry.tracking.login import password_file, runs_here

    return password_file(settings).exists() and runs_here(settings)


def _guarded(
    check: Callable[[Settings], Iterator[Finding]], settings: Settings
) -> Iterator[Finding]:
    name = check.__name__.strip("_")
    try:
        yield from check(settings)
    except (ModkernelError, OSError) as error:
        yield Finding(check=name, status="wrong", found=str(error))
    except Exception as error:  # A broken package raises whatever it likes.
        first = (str(error).splitlines() or [""])[0]
        remedy = None
        if isinstance(error, ImportError):
            remedy = "install the packages again (in a checkout: remove .venv, then make demo)"
        told = f"{type(error).__name__}: {first}".removesuffix(": ")
        yield Finding(check=name, status="wrong", found=told, remedy=remedy)


def _python(_: Settings) -> Iterator[Finding]:
    yield Finding(
        check="python", status="ok", found=f"{platform.python_version()} {sys.executable}"
    )


def _packages(_: Settings) -> Iterator[Finding]:
    try:
        yield Finding(check="modkernel", status="ok", found=version("modkernel"))
    except PackageNotFoundError:
        yield Finding(check="modkernel", status="ok", found="a checkout that is not installed")
    for name in PACKAGES:
        try:
            yield Finding(check=name, status="ok", found=version(name))
        except PackageNotFoundError:
            yield Finding(
                check=name,
                status="wrong",
                found="not installed",
                remedy="pip install modkernel (in a checkout: make demo)",
            )


def _devices(settings: Settings) -> Iterator[Finding]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        yield Finding(check="devices", status="ok", found=", ".join(names))
    elif settings.device == "cuda":
        yield Finding(
            check="devices",
            status="wrong",
            found="MODKERNEL_DEVICE is cuda, but torch sees no GPU",
            remedy="fix the driver ('nvidia-smi'), or set MODKERNEL_DEVICE=auto",
        )
    else:
        yield Finding(
            check="devices", status="ok", found=f"CPU, {settings.cpu_slots} module(s) at once"
        )


def _home(settings: Settings) -> Iterator[Finding]:
    settings.ensure_home()
    yield Finding(check="home", status="ok", found=str(settings.home))


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    status: Literal["ok", "note", "wrong"] = (
        "wrong" if free < NO_DISK_BYTES else "note" if free < LOW_DISK_BYTES else "ok"
    )
    yield Finding(
        check="disk",
        status=status,
        found=f"{free / 2**30:.1f} GiB free",
        remedy=None if status == "ok" else "free some space, or move MODKERNEL_HOME",
    )


def _registry(settings: Settings) -> Iterator[Finding]:
    from modkernel.registry.settings import masked
    from modkernel.registry.sql.engine import open_database
    from modkernel.registry.sql.tables import SCHEMA_VERSION

    open_database(settings).close()
    yield Finding(
        check="registry",
        status="ok",
        found=f"{masked(settings.registry_url)}, schema version {SCHEMA_VERSION}",
    )


def _mlflow_store(settings: Settings) -> Iterator[Finding]:
    from modkernel.registry.settings import masked
    from modkernel.registry.tracking.client import open_mlflow

    host = urlsplit(settings.mlflow_uri).hostname or ""
    if _runs_mlflow(settings) and port_is_free(settings.mlflow_port, host):
        yield Finding(
            check="mlflow store",
            status="note",
            found=f"{masked(settings.mlflow_uri)} is this home's own, and does not run",
            remedy="'modkernel up --host HOST' starts it",
        )
        return
    open_mlflow(settings)
    yield Finding(check="mlflow store", status="ok", found=masked(settings.mlflow_uri))


def _servers(settings: Settings) -> Iterator[Finding]:
    state = running(settings)
    if state is not None:
        yield Finding(
            check="servers", status="ok", found=f"{state.models_url}, {state.prefect_url}"
        )
        return
    for name in ("mlflow", "prefect"):
        port = getattr(settings, f"{name}_port")
        free = port_is_free(port)
        yield Finding(
            check=f"{name} port",
            status="ok" if free else "note",
            found=f"{port} is {'free' if free else 'in use by something else'}",
            remedy=None
            if free
            else f"before 'modkernel up', stop it or set MODKERNEL_{name.upper()}_PORT to another",
        )


def _schedules(settings: Settings) -> Iterator[Finding]:
    from modkernel.flows.servers.prefect_env import prepare_prefect, require_prefect

    prepare_prefect(settings)
    if "PREFECT_API_URL" not in os.environ:
        return  # No server is running: the check of the servers has said so.
    require_prefect()
    # Only now, since Prefect reads its surroundings once, and since importing it takes seconds.
    import httpx
    from prefect.client.orchestration import get_client

    from modkernel.flows.servers.scheduler_check import without_runs

    url = without_user(os.environ["PREFECT_API_URL"])
    try:
        with get_client(sync_client=True) as client:
            missing = without_runs(client)
    except httpx.HTTPError as error:
        yield Finding(
            check="schedules",
            status="wrong",
            found=f"the Prefect server at {url} cannot be asked: {error}",
            remedy="check PREFECT_API_URL and PREFECT_API_AUTH_STRING",
        )
        return
    if not missing:
        yield Finding(check="schedules", status="ok", found=f"{url} creates their runs")
        return
    yield Finding(
        check="schedules",
        status="wrong",
        found=f"the Prefect server at {url} creates no scheduled runs for {', '.join(missing)}",
        remedy="look for errors of its scheduler in the server's log (of 'modkernel up': "
        f"{settings.home / 'logs' / 'prefect.log'}); check that it runs with its services, that "
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED is not false, and that its Prefect and "
        "SQLAlchemy are versions that were tested together (requirements/constraints.txt)",
    )


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _devices,
    _home,
    _disk,
    _registry,
    _mlflow_store,
    _servers,
    _schedules,
)
