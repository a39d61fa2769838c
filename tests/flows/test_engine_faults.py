"""What goes wrong between an engine and who asked for it stays between these two."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modkernel.flows.servers import engine_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# The server forks engines that wait for ever. While it reads a third request, whose line comes
# late, the first engine ends and is cancelled: both are there when it looks up again.
LATE_CANCEL = """
import os, signal, socket, sys, time
from modkernel.flows.servers import engines

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(8)

def wait_for_ever(asked, descriptors):
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    engines.end_with_parent()
    while True:
        signal.pause()

engines._become_engine = wait_for_ever
server = os.fork()
if server == 0:
    engines.end_with_parent()  # Or a failure here would leave it behind.
    engines._Engines(listener).serve()
    os._exit(0)

def children():
    return [int(n) for n in open(f"/proc/{server}/task/{server}/children").read().split()]

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

def ask():
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    return one

def begun(count):
    one = ask()
    one.sendall(b"{}\\n")
    until(lambda: len(children()) == count)
    return one

first, second = begun(1), begun(2)
engine, other = children()
third = ask()
time.sleep(0.2)  # It waits for the line now.
os.kill(engine, signal.SIGKILL)
time.sleep(0.2)
first.send(bytes([signal.SIGTERM]))
third.sendall(b"{}\\n")
until(lambda: engine not in children() and len(children()) == 2)
time.sleep(0.5)  # It hears what the first had to say.
assert other in children()
print(os.waitpid(server, os.WNOHANG))
os.kill(server, signal.SIGKILL)
"""


def test_an_engine_that_ends_while_it_is_cancelled_ends_no_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE_CANCEL, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "(0, 0)\n"), done.stderr


def test_who_asked_for_an_engine_that_is_killed_ends_likewise(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        script = Path(engine_server.__file__).with_name("engine_client.py")
        command = [sys.executable, "-S", "-E", str(script), str(path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as client:
            asker, _ = server.accept()
            with asker, asker.makefile("rb") as asked:
                asked.readline()
                asker.sendall(str(-signal.SIGKILL).encode())
            _, told = client.communicate(timeout=30)
    assert (client.returncode, told) == (-signal.SIGKILL, b"")
