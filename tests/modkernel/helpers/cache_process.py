"""Processes that ask a feature cache, forked from one that has imported what they need.

    python -m tests.modkernel.helpers.cache_process

takes the arguments of `ask` as a line of JSON, and forks a process for each line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modkernel.features.cache import VALUES, FeatureCache, FeatureKey, NoRoomError

WIDTH = 1000


def key(name: str) -> FeatureKey:
    return FeatureKey(name, "data", "train", "plain", "float32")


def rows(name: str, count: int) -> Tensor:
    """What belongs under the key of a name."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(count, WIDTH, generator=generator)


class Asking:
    """A process that asks a cache."""

    def __init__(self, pipe: Path) -> None:
        self._lines = pipe.open()
        self.pid: int = next(self.said)["pid"]

    @property
    def said(self) -> Iterator[dict[str, Any]]:
        """What it has not been asked for yet."""
        for line in self._lines:
            yield json.loads(line)
        self._lines.close()

    def alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        """Kill it, and wait until it is gone with its locks."""
        os.kill(self.pid, signal.SIGKILL)
        while self.alive():
            time.sleep(0.005)
        self.close()

    def close(self) -> None:
        """Hear no more of it: it ends where it says something."""
        self._lines.close()


class Askers:
    """One process that waits for commands to fork others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Asking] = []
        command = [sys.executable, "-m", __name__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def start(self, folder: Path, limit: int, name: str, count: int, seconds: float) -> Asking:
        """Start `ask` in a process of its own."""
        pipe = self.folder / str(len(self.started))
        os.mkfifo(pipe)
        assert self.process.stdin is not None
        given = [str(pipe), str(folder), limit, name, count, seconds]
        print(json.dumps(given), file=self.process.stdin, flush=True)
        self.started.append(Asking(pipe))
        return self.started[-1]

    def close(self) -> None:
        for one in self.started:
            one.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


def ask(pipe: str, folder: str, limit: int, name: str, count: int, seconds: float) -> None:
    """Ask a cache; compute a row each `seconds`, and tell each into the pipe, and the end."""
    with open(pipe, "w") as told:

        def say(**event: object) -> None:
            print(json.dumps(event), file=told, flush=True)

        def blocks() -> Iterator[Tensor]:
            for number, row in enumerate(rows(name, count).split(1)):
                say(event="block", number=number)
                time.sleep(seconds)
                yield row

        say(event="asked", pid=os.getpid())
        try:
            found = FeatureCache(Path(folder), limit).find_or_make(key(name), count, blocks)
            say(event="done", right=torch.equal(found[VALUES], rows(name, count)))
        except NoRoomError:
            say(event="no room")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for them.
    for line in sys.stdin:
        if os.fork() == 0:
            ask(*json.loads(line))
            os._exit(0)


if __name__ == "__main__":
    main()
