"""The Prefect server of one command, where none runs: it never outlives the command."""

from __future__ import annotations

import atexit
import os
import socket
import threading
from contextlib import ExitStack
from importlib import import_module

from modkernel.errors import ServiceError
from modkernel.flows.runtime.events import Note, emit
from modkernel.flows.servers.prefect_env import CLIENT, require_prefect
from modkernel.flows.servers.reach import HOST
from modkernel.flows.servers.services import prefect_service
from modkernel.flows.servers.supervisor import POLL_SECONDS, Supervisor
from modkernel.registry import Settings

FLOWS = "modkernel.flows.train_network"
"""What takes longest to import of what every flow needs."""


def require_server(settings: Settings) -> None:
    """Make sure that Prefect's clients have a server: the one that is set, or one of our own.

    After `prepare_prefect`. Our own ends with this process, however that ends: the one that
    Prefect starts by itself outlives a process that is killed.

    Args:
        settings: of the home.

    Raises:
        ServiceError: the server that is set does not answer or refuses us, or ours did not start.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        require_prefect()
        return
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    service = prefect_service(settings, port, os.environ[CLIENT], temporary=True)
    with ExitStack() as stack:
        children = stack.enter_context(Supervisor())
        children.spawn(service)
        import_module(FLOWS)  # While the server starts.
        children.wait([service], lambda: False)
        over = threading.Event()
        stack.callback(over.set)  # Before the server is stopped.
        threading.Thread(
            target=_keep_alive, args=(children, over), name="prefect-temporary", daemon=True
        ).start()
        # Prefect's own, which send what is left of logs and events, are registered later and so
        # run before it.
        atexit.register(stack.pop_all().close)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    refresh_global_settings_context()


def _keep_alive(children: Supervisor, over: threading.Event) -> None:
    """Start the server again if it dies: what asks it meanwhile tries again for a while."""
    while not over.wait(POLL_SECONDS):
        try:
            children.restart_dead(lambda told: emit(Note(told)))
        except ServiceError:
            return  # Whoever asks the server fails by that.
