"""Child processes that start, live and stop together: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modkernel.errors import ServiceError
from modkernel.flows.servers import supervisor
from modkernel.flows.servers.supervisor import Service, Supervisor, stop_signals

# Writes its pid and that of a grandchild, then sleeps; both ignore nothing.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".new", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def service(folder: Path, name: str, code: str) -> tuple[Service, Path]:
    pids = folder / f"{name}.pids"
    command = [sys.executable, "-c", code, str(pids)]
    return Service(name, command, {}, folder / f"{name}.log", pids.exists), pids


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def never() -> bool:
    return False


def test_a_group_is_stopped_with_its_grandchildren(tmp_path: Path) -> None:
    one, one_pids = service(tmp_path, "one", FAMILY)
    two, two_pids = service(tmp_path, "two", FAMILY)
    with Supervisor() as children:
        assert children.start([one], never)
        assert children.start([two], never)
        children.check()
        pids = [int(pid) for file in (one_pids, two_pids) for pid in file.read_text().split()]
        assert all(map(alive, pids))
    assert wait(lambda: not any(map(alive, pids)))


def test_one_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FAMILY
    stubborn, pids = service(tmp_path, "stubborn", code)
    with Supervisor() as children:
        assert children.start([stubborn], never)
        parent, grandchild = map(int, pids.read_text().split())
    assert wait(lambda: not alive(parent) and not alive(grandchild))


def test_when_one_dies_the_message_has_its_log_and_the_rest_is_stopped(tmp_path: Path) -> None:
    good, pids = service(tmp_path, "good", FAMILY)
    bad, _ = service(tmp_path, "the bad one", "print('no such table'); raise SystemExit(3)")

    def start_both() -> None:
        with Supervisor() as children:
            children.start([good, bad], never)

    with pytest.raises(ServiceError) as caught:
        start_both()
    assert "the bad one stopped by itself (exit code 3)" in str(caught.value)
    assert "no such table" in str(caught.value)
    started = pids.read_text().split() if pids.exists() else []
    assert wait(lambda: not any(alive(int(pid)) for pid in started))


def test_one_that_is_killed_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    mortal, pids = service(tmp_path, "mortal", "print('hello', flush=True)\n" + FAMILY)
    told: list[str] = []
    with Supervisor() as children:
        assert children.start([mortal], never)
        for count in range(1, supervisor.RESTARTS + 1):
            parent, grandchild = map(int, pids.read_text().split())
            pids.unlink()
            os.kill(parent, signal.SIGKILL)
            assert wait(lambda parent=parent: not alive(parent))
            children.restart_dead(told.append)
            assert not alive(grandchild), "what the dead one left would be in the way"
            assert wait(pids.exists)
            assert len(told) == count
        children.restart_dead(told.append)
        assert len(told) == supervisor.RESTARTS, "nothing has died since"
        os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
        with pytest.raises(ServiceError, match="mortal stopped by itself"):
            assert not wait(lambda: children.restart_dead(told.append) is not None)
    assert "exit code -9) and is started again" in told[0]
    assert mortal.log.read_text().split() == ["hello"] * (1 + supervisor.RESTARTS)


def test_one_that_never_answers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_SECONDS", 0)
    mute, _ = service(tmp_path, "mute", "import time; time.sleep(600)")
    with pytest.raises(ServiceError, match="mute did not answer within 0 s"), Supervisor() as one:
        one.start([mute], never)


def test_a_start_is_broken_off_when_asked_to_stop(tmp_path: Path) -> None:
    slow, _ = service(tmp_path, "slow", "import time; time.sleep(600)")
    with stop_signals() as stopped, Supervisor() as children:
        os.kill(os.getpid(), signal.SIGTERM)
        assert not children.start([slow], stopped)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal of Linux")
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from modkernel.flows.servers.supervisor import Service, Supervisor
pids = Path({str(tmp_path / "pids")!r})
child = Service("c", [sys.executable, "-c", {FAMILY!r}, str(pids)], {{}},
                Path({str(tmp_path / "log")!r}), pids.exists)
with Supervisor() as children:
    children.start([child], lambda: False)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        assert wait((tmp_path / "pids").exists)
        child, grandchild = map(int, (tmp_path / "pids").read_text().split())
        parent.kill()
    assert wait(lambda: not alive(child))
    os.kill(grandchild, signal.SIGKILL)


def test_one_that_a_full_disk_ended_is_told_in_a_sentence(tmp_path: Path) -> None:
    code = "raise RuntimeError('(sqlite3.OperationalError) database or disk is full')"
    full, _ = service(tmp_path / "logs", "full", code)
    with (
        Supervisor() as children,
        pytest.raises(ServiceError, match=rf"^full stopped .*{tmp_path} is full: free some space"),
    ):
        children.start([full], never)
