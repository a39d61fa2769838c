"""Hosts of their own on this machine: network namespaces on one bridge, each with a host name.

What runs on a host sees its own loopback address alone, reaches the others by their addresses, and
ends with the host. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.flows.helpers.processes import ROOT

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def can_make_hosts() -> bool:
    """Whether this machine lets us make network namespaces, and has PostgreSQL."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not BINARIES:
        return False
    probe = f"mk-probe-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", probe], check=True)
    return made


@dataclass
class Host:
    """A host: its own network, host name, folder."""

    name: str
    namespace: str
    switch: str
    cable: str
    """Its end of the cable at the switch."""
    address: str
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, command: Sequence[str]) -> list[str]:
        named = f'hostname {self.name} && exec "$@"'
        shell = ["unshare", "--uts", "sh", "-c", named, "sh"]
        return ["ip", "netns", "exec", self.namespace, *shell, *command]

    def start(
        self,
        *command: str,
        log: str,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A process of the host, whose output goes to a log in its folder."""
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                self.command(command),
                env=os.environ | self.environment | dict(environment or {}),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def modkernel(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """A command of the host, to its end."""
        return subprocess.run(
            self.command([sys.executable, "-m", "modkernel.flows.cli", *arguments]),
            env=os.environ | self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def pids(self) -> set[int]:
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True
        )
        return {int(pid) for pid in listed.stdout.split()}

    def kill(self) -> None:
        """Kill every process of the host at once, as when its power fails."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.started:
                process.poll()
        for process in self.started:
            process.wait()

    def unplug(self) -> None:
        """Take the network away; what runs there goes on."""
        self._switch("ip", "link", "set", self.cable, "down")

    def plug_in(self) -> None:
        self._switch("ip", "link", "set", self.cable, "up")

    def _switch(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.switch, *command], check=True)


@contextmanager
def hosts(names: Sequence[str], folder: Path) -> Iterator[dict[str, Host]]:
    """Hosts of these names that reach each other; all that runs there ends with the block."""
    mark = uuid.uuid4().hex[:6]
    switch = f"mk{mark}-switch"
    made: dict[str, Host] = {}
    _run("ip", "netns", "add", switch)
    try:
        _in(switch, "ip", "link", "add", "bridge", "type", "bridge")
        _in(switch, "ip", "link", "set", "bridge", "up")
        for number, name in enumerate(names, start=1):
            namespace, cable = f"mk{mark}-{name}", f"c{number}"
            _run("ip", "netns", "add", namespace)
            (folder / name).mkdir(parents=True)
            host = Host(name, namespace, switch, cable, f"10.77.0.{number}", folder / name)
            host.environment = {
                "MODKERNEL_HOME": str(host.folder / "home"),
                "PYTHONPATH": str(ROOT),
                "HOME": str(host.folder),
                "OMP_NUM_THREADS": "1",
            }
            made[name] = host
            _in(namespace, "ip", "link", "add", "eth0", "type", "veth", "peer", cable)
            _in(namespace, "ip", "link", "set", cable, "netns", switch)
            _in(switch, "ip", "link", "set", cable, "master", "bridge")
            _in(switch, "ip", "link", "set", cable, "up")
            _in(namespace, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            _in(namespace, "ip", "link", "set", "eth0", "up")
            _in(namespace, "ip", "link", "set", "lo", "up")
        yield made
    finally:
        for host in made.values():
            host.kill()
            _run("ip", "netns", "del", host.namespace)
        _run("ip", "netns", "del", switch)


def _in(namespace: str, *command: str) -> None:
    _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
