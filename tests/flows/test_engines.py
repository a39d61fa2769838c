"""The process that forks engines: who asks amiss, dies or is killed ends nothing but its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modkernel.flows.servers.engine_server import VARIABLE, EngineServer, engine_command
from tests.flows.helpers.processes import processes, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.long]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineServer]:
    server = EngineServer()
    try:
        wait_until(lambda: engine_command() is not None, 120, "it has loaded all")
        yield server
    finally:
        server.close()


def asked(run: str) -> subprocess.Popen[str]:
    command = engine_command()
    assert command is not None
    environment = os.environ | {
        "PREFECT__FLOW_RUN_ID": run,
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
    }
    return subprocess.Popen(
        command.split(),
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def test_faults_of_one_asker_are_its_own(engines: EngineServer, tmp_path: Path) -> None:
    path = os.environ[VARIABLE]
    for garbage in (b"", b"no json\n", b"{}\n"):
        with socket.socket(socket.AF_UNIX) as someone:
            someone.connect(path)
            someone.sendall(garbage)
    with asked("no id of a run") as client:
        _, told = client.communicate(timeout=60)
    # The engine itself has said so, and its exit status is the client's.
    assert (client.returncode, "Invalid flow run id" in told) == (1, True)


def test_an_engine_ends_with_who_asked_for_it(engines: EngineServer) -> None:
    # It tries to reach a server that is not there, for a while.
    with asked("6f2e9a15-2a4d-4d8a-81fc-c22933f0aaa0") as client:
        children = Path(f"/proc/{engines.pid}/task/{engines.pid}/children")
        wait_until(lambda: children.read_text() != "", 30, "an engine was forked")
        client.send_signal(signal.SIGKILL)
        wait_until(lambda: children.read_text() == "", 30, "it has ended")


FORKS = """
import sys, time
from modkernel.system.forked import ForkedProcess, importing_without_threads

with importing_without_threads():
    from modkernel.flows.servers.engine_server import EngineServer
engines = EngineServer()
assert isinstance(engines._process, ForkedProcess)
print(engines.pid, flush=True)
if sys.argv[1] == "killed":
    time.sleep(600)
engines.close()
"""


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_a_fork_of_what_serves_ends_with_it(how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS, how], stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        forked = int(serving.stdout.readline())
        if how == "killed":
            serving.kill()
        wait_until(lambda: forked not in processes(), 30, "it has ended")
        assert serving.wait(30) == (-signal.SIGKILL if how == "killed" else 0)


def test_it_is_started_again(engines: EngineServer) -> None:
    before = engines.pid
    os.kill(before, signal.SIGKILL)

    def back() -> bool:
        engines.keep_alive()
        return engine_command() is not None and engines.pid != before

    wait_until(back, 120, "it has loaded all again")
