"""What happens in a child process: one job from its folder to its result.

The fork server has just forked this process; nothing has computed in it, and CUDA is untouched.
Whatever ends it, the locks that it holds end with it, and the checkpoint is where the next goes on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from modkernel.control import Progress
from modkernel.errors import ModkernelError
from modkernel.jobs.failures import fail, typed, without_room
from modkernel.jobs.helpers import Helper, Target, fork_helpers, together
from modkernel.jobs.job import parse_job
from modkernel.jobs.slots import device_slots, hold
from modkernel.system.memory import peak_memory

__all__ = ["Target", "run_child"]

LIFELINE_GRACE_SECONDS = 8.0


def run_child(work: Path, target: Target) -> int:
    """Run the job in `work` and return the exit status.

    It is 0, or 1 with an error.json, or FULL_DISK where that had no room.

    Standard input is the lifeline: its other end is held by the flow alone, so that the end of
    the flow, even by `kill -9`, is seen here and training stops at a checkpoint. SIGTERM asks
    for the same.
    """
    os.setsid()
    lifeline = _detach(work)
    stop = threading.Event()
    helpers: Sequence[Helper] = ()
    signal.signal(signal.SIGTERM, _stopper(stop))
    try:
        helpers = fork_helpers(work, target)
        threading.Thread(target=_watch, args=(lifeline, stop), name="lifeline", daemon=True).start()
        report = _progress_file(work / "progress.jsonl")
        with hold([work / "lock"], stop.is_set, lambda: report(_waiting("folder"))):
            return _run(work, target, helpers, report, stop)
    except FileNotFoundError:
        return 1  # Finished and cleared away by somebody else while this child waited.
    except ModkernelError as error:
        return fail(work, error)
    except OSError as error:
        return without_room(error)
    finally:
        for helper in helpers:
            helper.dismiss()


def _run(
    work: Path,
    target: Target,
    helpers: Sequence[Helper],
    report: Progress,
    stop: threading.Event,
) -> int:
    (work / "error.json").unlink(missing_ok=True)
    job = parse_job((work / "job.json").read_bytes())
    if job.result.exists():
        return 0
    torch.set_num_threads(job.threads)
    try:
        with device_slots(
            Path(job.slots),
            job.device,
            job.cpu_slots,
            1 + len(helpers),
            stop.is_set,
            lambda: report(_waiting("device")),
        ) as slots:
            device = slots[0].device
            slots[0].use()
            report({"event": "started", "device": device, "pid": os.getpid()})
            with together(helpers, slots, work):
                target(job.changed(device=device), report, stop.is_set)
            report({"event": "finished", **peak_memory()})
    except Exception as error:
        return fail(work, typed(error, work))
    return 0


def _waiting(what: str) -> dict[str, Any]:
    return {"event": "waiting", "for": what}


def _detach(work: Path) -> int:
    """Point standard output and error at the log, and move the lifeline away from input."""
    lifeline = os.dup(0)
    log = os.open(work / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(nothing)
    os.close(log)
    return lifeline


def _stopper(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    return handle


def _watch(lifeline: int, stop: threading.Event) -> None:
    poller = select.poll()
    poller.register(lifeline, 0)  # POLLHUP is always reported; the server's input is not ours.
    while not poller.poll():
        pass
    stop.set()
    time.sleep(LIFELINE_GRACE_SECONDS)
    os._exit(1)  # Nobody waits for this process any more: it must not hold a device for ever.


def _progress_file(path: Path) -> Progress:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    # A child that was killed in the middle of a line must not spoil the next one's first.
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")

    def report(event: Mapping[str, Any]) -> None:
        os.write(descriptor, json.dumps(dict(event)).encode() + b"\n")

    return report
