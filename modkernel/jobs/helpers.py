"""The processes beside a child: one for each further device that its module is trained on.

A child forks them before it has a thread, and they wait. Once the child holds all the devices, each
gets one and its lock, does the same job as the child, and leaves what that gives to the child. A
pair of sockets joins both: whichever ends, the other sees the end of it. A helper then ends at
once; the child ends with an error, and the next one goes on from the checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from modkernel.control import Progress, Stop, no_progress
from modkernel.errors import ChildError, ModkernelError, StoppedError
from modkernel.jobs.failures import error_told, fail, tell_error, typed
from modkernel.jobs.job import HiddenJob, Job, parse_job
from modkernel.jobs.slots import Slot
from modkernel.training.parallel.join import joined

__all__ = ["Helper", "Target", "devices_of", "fork_helpers", "together"]

Target = Callable[[Job, Progress, Stop], None]
"""What does a job: `modkernel.jobs.run.run_job`, or a test's own."""

MEETING = "meeting"
"""File in the work folder by which the processes find each other."""
DONE = b"done"
LONGEST = 1 << 16
"""Bytes of a message between a child and its helper, at most."""
TOLD_SECONDS = 2.0
"""For what a helper says of its end, which may come after this process has noticed it."""
GRACE_SECONDS = 5.0
"""For a child to notice by itself that a helper has ended; on a GPU it would wait for ever."""


@dataclass
class Helper:
    """A process beside this one, as seen from here."""

    rank: int
    pid: int
    link: socket.socket
    failed: threading.Event = field(default_factory=threading.Event)
    error: ModkernelError | None = None
    """Why it ended before it had done its part; there when `failed` is set."""
    dismissed: threading.Event = field(default_factory=threading.Event)
    """Set when nothing that it does is of interest any more."""
    _status: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def dismiss(self) -> None:
        """End it, whatever it does: on return it has ended, and holds no device."""
        self.dismissed.set()
        self.end()

    def end(self) -> int:
        """Its exit status, or minus the signal that ended it; it is killed if it has not ended."""
        with self._lock:
            # Once it is waited for, its number may be another process's.
            if self._status is None:
                os.kill(self.pid, signal.SIGKILL)
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._status


def devices_of(job: Job) -> int:
    """How many devices a job is done on: only hidden modules are trained on several."""
    return job.devices if isinstance(job, HiddenJob) else 1


def fork_helpers(work: Path, target: Target) -> tuple[Helper, ...]:
    """Fork as many helpers as the job in `work` needs; call it before there is a thread."""
    helpers: list[Helper] = []
    for rank in range(1, devices_of(parse_job((work / "job.json").read_bytes()))):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            for end in (ours, *(helper.link for helper in helpers)):
                end.close()
            _become_helper(rank, theirs, work, target)
        theirs.close()
        helpers.append(Helper(rank, pid, ours))
    return tuple(helpers)


@contextmanager
def together(helpers: Sequence[Helper], slots: Sequence[Slot], work: Path) -> Iterator[None]:
    """Do in the block, together with the helpers, what all of them do; they have ended after it.

    Args:
        helpers: of `fork_helpers`; without any the block does it alone.
        slots: a device for this process and one for each helper.
        work: the job's folder.

    Raises:
        ModkernelError: what ended a helper, in place of what this process got to see of it.
    """
    if not helpers:
        yield
        return
    meeting = work / MEETING
    meeting.unlink(missing_ok=True)
    try:
        for helper, slot in zip(helpers, slots[1:], strict=True):
            told = {"device": slot.device, "gpu": slot.gpu, "size": len(slots)}
            try:
                socket.send_fds(helper.link, [json.dumps(told).encode()], [slot.lock])
            except OSError as error:
                raise _died(helper) from error
            threading.Thread(target=_follow, args=(helper, work), daemon=True).start()
        with joined(0, len(slots), meeting, slots[0].device):
            yield
    except ModkernelError:
        raise
    except Exception as error:
        until = time.monotonic() + TOLD_SECONDS
        while time.monotonic() < until:
            for helper in helpers:
                if helper.failed.wait(TOLD_SECONDS / 100) and helper.error is not None:
                    raise helper.error from error
        raise
    finally:
        for helper in helpers:
            helper.dismiss()
        meeting.unlink(missing_ok=True)


def _follow(helper: Helper, work: Path) -> None:
    """Hear what a helper has to say; end this process if it ended and nothing else does.

    All processes stop at one step, so one that has stopped leaves this one in the middle of its
    last checkpoint: it ends by itself, and who asked for the stop says how long that may take.
    """
    said = b""
    with suppress(OSError):
        while received := helper.link.recv(LONGEST):
            said += received
    if said == DONE or helper.dismissed.is_set():
        return
    helper.error = _error_said(helper, said)
    helper.failed.set()
    if isinstance(helper.error, StoppedError):
        os.kill(os.getpid(), signal.SIGTERM)  # It may be the only one that was asked to.
    elif not helper.dismissed.wait(GRACE_SECONDS):
        os._exit(fail(work, helper.error))


def _error_said(helper: Helper, said: bytes) -> ModkernelError:
    try:
        return error_told(json.loads(said))
    except ValueError:  # Nothing, or what a kill has cut short.
        return _died(helper)


def _died(helper: Helper) -> ChildError:
    code = helper.end()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    error = ChildError(
        f"The training process on device {helper.rank + 1} {how}; if nobody did that, the machine "
        "ran out of memory: make recipe.batch_size or backbone.width smaller, or close other "
        "programs. Run it again to go on from the last checkpoint."
    )
    error.died = True
    return error


def _become_helper(rank: int, link: socket.socket, work: Path, target: Target) -> None:
    status = 1
    try:
        status = _help(rank, link, work, target)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _help(rank: int, link: socket.socket, work: Path, target: Target) -> int:
    # The lock on the device stays open here: the device is taken as long as either process lives.
    message, _lock, _, _ = socket.recv_fds(link, LONGEST, 1)
    if not message:
        return 0  # The child has ended, and had no device for it.
    told = json.loads(message)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    threading.Thread(target=_end_with, args=(link,), daemon=True).start()
    job = parse_job((work / "job.json").read_bytes())
    Slot(told["device"], told["gpu"], -1).use()
    torch.set_num_threads(job.threads)
    try:
        with joined(rank, told["size"], work / MEETING, told["device"]):
            target(job.changed(device=told["device"]), no_progress, stop.is_set)
    except Exception as error:
        link.sendall(json.dumps(tell_error(typed(error, work))).encode())
        return 1
    link.sendall(DONE)
    return 0


def _end_with(link: socket.socket) -> None:
    """End this process when the child has ended: nothing of what it has is needed then."""
    with suppress(OSError):
        link.recv(1)
    os._exit(1)
