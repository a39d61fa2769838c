"""Commands as a person types them: each in a process of its own, or several in one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from modkernel.flows.cli import main
from tests.flows.helpers.processes import ROOT

# One process for many commands: torch, MLflow and Prefect take seconds to import in each, and a
# temporary Prefect server seconds to start.
SHELL = """
import contextlib, io, json, os, sys
from modkernel.flows.cli import main
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    changes, arguments = json.loads(line)
    os.environ.update(changes)
    sys.argv = ["modkernel", *arguments]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""

SMALL = """
name: small
dataset: {name: digits}
backbone: {name: mlp, width: 32, depth: 1}
hidden:
  - {kernel: {name: relu}, recipe: {epochs: 2}}
output: {labels_per_class: 1, method: ridge}
"""
"""A network that is trained in a moment."""


class Done(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def environment(home: Path, server: str | None = None) -> dict[str, str]:
    """What a command of a home is run in: with a Prefect server, or to start one of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    if server is not None:
        kept |= {"PREFECT_API_URL": server, "PREFECT_HOME": os.environ["PREFECT_HOME"]}
    return kept | {"MODKERNEL_HOME": str(home)}


def run_here(*arguments: str) -> Done:
    """What a command gives in this process, which has all imported that commands import."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["modkernel", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as caught,
    ):
        main()
    code = caught.value.code
    return Done(0 if code is None else int(code), out.getvalue(), err.getvalue())


class Shell:
    """Runs commands of one home, one after the other, in one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self.pid = process, process.pid

    def __call__(self, *arguments: str, **changes: str) -> Done:
        """What a command gives; variables of the environment that it changes stay changed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([changes, arguments]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"'{' '.join(arguments)}' ended the process"
        return Done(*json.loads(answer))

    def several(self, *commands: Sequence[str]) -> list[Done]:
        """What each of some commands gives."""
        return [self(*arguments) for arguments in commands]


def shell(home: Path, server: str | None = None) -> AbstractContextManager[Shell]:
    """A process that runs commands of a home, with a Prefect server or one of its own."""
    return shell_in(environment(home, server), ROOT)


@contextmanager
def shell_in(environment: dict[str, str], folder: Path, umask: int = -1) -> Iterator[Shell]:
    """A process that runs commands in an environment and a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", SHELL],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        umask=umask,
        text=True,
    ) as process:
        yield Shell(process)
        process.communicate(timeout=120)
    assert process.returncode == 0


def several(home: Path, *commands: Sequence[str], server: str | None = None) -> list[Done]:
    """What each of some commands gives, in a fresh process."""
    with shell(home, server) as run:
        return run.several(*commands)
