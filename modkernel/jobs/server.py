"""A process that has torch loaded and forks a child for every job.

`modkernel.jobs.client` starts it as `python -m modkernel.jobs`. It reads one JSON object a
line from standard input and writes one a line to standard output:

    {"id": 1, "work": "/folder"}    start a child there      → {"id": 1, "pid": 4711}
    {"id": 1, "signal": 15}         send the child a signal
                                    when a child has ended   → {"id": 1, "exit": 0, "signal": null}

It never computes and never touches CUDA, so that it has one thread and every fork is sound. When
its input ends, the children see the same and stop by themselves; it waits for them and goes too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import selectors
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch

from modkernel.jobs.child import Target, run_child
from modkernel.jobs.client import RUN_JOB
from modkernel.lookup import import_object

__all__ = ["main", "preload", "serve"]


def main() -> None:
    """Serve until standard input ends and the last child has gone."""
    parser = argparse.ArgumentParser(description="Fork a child process for every job.")
    parser.add_argument("--target", default=RUN_JOB, help="function(job, progress, stop)")
    target = cast(Target, import_object(parser.parse_args().target, "job function"))
    preload()
    gc.collect()
    gc.freeze()  # Collections in the children then leave the shared pages alone.
    serve(target)


def preload() -> None:
    """Import what is otherwise imported by every child, in seconds, when it is first used."""
    torch.optim.SGD([torch.nn.Parameter(torch.empty(0))], lr=1.0)


def serve(target: Target) -> None:
    """Obey what comes on standard input until it ends and the last child has gone."""
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    children: dict[int, int] = {}  # process id → job id
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        open_input = True
        while open_input or children:
            ready = {key.fd for key, _ in selector.select()}
            if wake in ready:
                os.read(wake, 4096)
                _reap(children)
            if 0 in ready:
                received = os.read(0, 65536)
                if not received:
                    selector.unregister(0)
                    open_input = False
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    _obey(json.loads(line), children, target)


def _obey(command: dict[str, Any], children: dict[int, int], target: Target) -> None:
    if "signal" in command:
        for child, job in children.items():
            if job == command["id"]:
                os.kill(child, command["signal"])
        return
    child = os.fork()
    if child == 0:
        _become_child(Path(command["work"]), target)
    children[child] = command["id"]
    _tell({"id": command["id"], "pid": child})


def _become_child(work: Path, target: Target) -> None:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status = run_child(work, target)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):  # The log's disk may be full.
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reap(children: dict[int, int]) -> None:
    for child in tuple(children):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            _tell(
                {
                    "id": children.pop(child),
                    "exit": code if code >= 0 else None,
                    "signal": -code if code < 0 else None,
                }
            )


def _tell(message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # If the flow has gone, the children are on their way.
        os.write(1, json.dumps(message).encode() + b"\n")
