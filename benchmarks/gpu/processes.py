"""A step as a process of its own: its output with time stamps, its limit, its end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
TAIL_LINES = 40
"""Last lines of a step's output that its record keeps."""
PATIENCE_SECONDS = 5.0
"""That what is left of a killed step's output is waited for."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a step ended: `status` is `passed`, `failed` or `cut off` (at its limit)."""

    status: str
    exit_code: int | None
    seconds: float
    limit: float
    tail: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "seconds": round(self.seconds, 1), "limit": round(self.limit, 1)}


class Processes:
    """The processes of the steps that run now."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.running: set[subprocess.Popen[str]] = set()

    def run(self, name: str, command: Sequence[str], limit: float) -> Outcome:
        """Run a step to its end, or kill it and all that it started after `limit` seconds."""
        began = time.monotonic()
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                cwd=ROOT,
                env=_environment(),
            )
        except OSError as error:
            return Outcome("failed", None, 0.0, limit, (str(error),))
        self.running.add(process)

        def read() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    tail.append(line.rstrip("\n"))
                    self.tell(f"{name}: {tail[-1]}")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            kill(process)
            self.running.discard(process)
        reader.join(PATIENCE_SECONDS)
        status = "cut off" if code is None else "failed" if code else "passed"
        return Outcome(status, code, time.monotonic() - began, limit, tuple(tail))

    def kill_all(self) -> None:
        """End every step, at once."""
        for process in list(self.running):
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and its children, if any is left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _environment() -> dict[str, str]:
    # A test that runs this script must not pass its own pytest's state on to the one in here.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Plugins that happen to be installed may warn or change what is run: only those that are named.
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
