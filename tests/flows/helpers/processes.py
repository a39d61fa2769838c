"""Processes of this machine, ports, and waiting for what they do."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
SERVES = r"-m modkernel\.flows\.cli (serve|worker)\b"
"""In the command line of what serves runs, and of its forks."""


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds, or fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def processes() -> dict[int, int]:
    """Parent by process, of those that are alive."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    return parents


def descendants(pid: int) -> set[int]:
    """A process's children, theirs, and so on."""
    parents = processes()
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found - {pid}


def processes_of(home: Path) -> dict[int, str]:
    """Command lines of the live processes whose environment names the home."""
    setting, found = f"MODKERNEL_HOME={home}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if setting in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def engine_servers(home: Path) -> set[int]:
    """Processes of a home that fork engines: forks of what serves, or its later programs."""
    lines, parents = processes_of(home), processes()
    serving = {pid for pid, line in lines.items() if re.search(SERVES, line)}
    forked = {pid for pid in serving if lines.get(parents.get(pid, 0)) == lines[pid]}
    forked |= {pid for pid, line in lines.items() if "-m modkernel.flows.servers.engines" in line}
    return {pid for pid in forked if parents.get(pid) not in forked}


def engines_of(home: Path) -> set[int]:
    """Processes of a home that run flows which a person or a schedule started."""
    lines, parents, servers = processes_of(home), processes(), engine_servers(home)
    return {
        pid
        for pid, line in lines.items()
        if "-m prefect.engine" in line or parents.get(pid) in servers
    }


def leaders(home: Path, command: str) -> set[int]:
    """Processes of a home that were started by a command and lead their group."""
    found = {pid for pid, line in processes_of(home).items() if f"-m {command}" in line}
    return {pid for pid in found if os.getpgid(pid) == pid}
