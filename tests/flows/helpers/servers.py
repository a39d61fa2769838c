"""`modkernel up` as tests start it, and asking its servers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from modkernel.flows.servers.prefect_password import basic_authorization, prefect_password
from modkernel.registry import Settings
from tests.flows.helpers.commands import Shell, shell_in
from tests.flows.helpers.own_packages import own_folder, searched_first
from tests.flows.helpers.processes import ROOT, free_ports, processes_of, wait_until

DEAD_PROXIES = {
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
}
"""Where nobody answers: whoever asks this machine's servers through them gets nowhere."""


@dataclass(frozen=True)
class Up:
    """A running `modkernel up`."""

    home: Path
    environment: dict[str, str]
    """What commands of the same home are started with."""
    mlflow: str
    """URL of MLflow's server."""
    prefect: str
    """URL of Prefect's server."""
    process: subprocess.Popen[bytes]
    told: str
    """What it had said on its terminal when it was ready."""
    folder: Path
    """The working folder of all."""
    shell: Callable[[], Shell]
    """A process that runs commands of the same home, started when it is first asked for."""

    @property
    def password(self) -> str:
        """Of Prefect's server."""
        return prefect_password(Settings(home=self.home))

    def modkernel(self, *arguments: str) -> dict[str, Any]:
        """A command of the same home, which must succeed: its JSON document."""
        result: dict[str, Any] = self.shell()(*arguments, "--json").json
        return result


def surroundings(home: Path) -> tuple[dict[str, str], int, int]:
    """The environment of `modkernel up` in a home, and the free ports of MLflow and Prefect.

    It names proxies that nobody answers at, and has Python look into the working folder first.
    """
    mlflow_port, prefect_port = free_ports(2)
    environment = {
        name: value
        for name, value in os.environ.items()
        if "PREFECT" not in name and name.lower() != "no_proxy"
    }
    environment = (
        searched_first(environment)
        | DEAD_PROXIES
        | {
            "MODKERNEL_HOME": str(home),
            "MODKERNEL_MLFLOW_PORT": str(mlflow_port),
            "MODKERNEL_PREFECT_PORT": str(prefect_port),
        }
    )
    return environment, mlflow_port, prefect_port


def refused(environment: dict[str, str], *arguments: str, folder: Path = ROOT) -> str:
    """The one line that a command is refused with."""
    done = subprocess.run(
        [sys.executable, "-m", "modkernel.flows.cli", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


@contextmanager
def running_up(home: Path, environment: dict[str, str], *options: str) -> Iterator[Up]:
    """`modkernel up` in a terminal, with a umask that forbids nothing; nothing is left after.

    Its folder holds packages of a user's own called flows, registry and tests.
    """
    folder = own_folder(home.parent / "project")
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "modkernel.flows.cli", "up", *options]
    process = subprocess.Popen(
        command, cwd=folder, env=environment | {"TERM": "dumb"}, stderr=theirs, umask=0
    )
    os.close(theirs)
    try:
        told = _read_until(terminal, "Ctrl-C stops")
        assert "Ctrl-C stops" in told, told
        threading.Thread(target=_read_until, args=(terminal, "never said"), daemon=True).start()
        mlflow, prefect = re.findall(r"(https?://[\d.:]+)", told)
        with ExitStack() as stack:

            @cache
            def shell() -> Shell:
                return stack.enter_context(shell_in(environment, folder, umask=0))

            yield Up(home, environment, mlflow, prefect, process, told, folder, shell)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=180) == 0
            wait_until(lambda: not processes_of(home), 60, "every process ends")
            assert not (home / "up.json").exists()
        finally:
            for pid in processes_of(home):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.close(terminal)


def get(url: str, body: dict[str, Any] | None = None, password: str | None = None) -> str:
    """The text that a server answers with, to a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    if password is not None:
        request.add_header("Authorization", basic_authorization(password))
    with urllib.request.urlopen(request, timeout=60) as response:
        text: str = response.read().decode()
        return text


def _read_until(terminal: int, end: str) -> str:
    told = ""
    with suppress(OSError):  # How the other end of a pseudo-terminal closes.
        while end not in told and (more := os.read(terminal, 1 << 16)):
            told += more.decode()
    return told
