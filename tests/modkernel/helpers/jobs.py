"""Job functions that tests have the fork server run in place of training."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors import SafetensorError

from modkernel.control import Progress, Stop
from modkernel.errors import ModkernelError, PairError, StoppedError, UnknownNameError
from modkernel.jobs.client import ForkServer
from modkernel.jobs.job import EndToEndJob, Job
from modkernel.spec import DatasetSpec, NetworkSpec


def make_job(work: Path, what: str = "count", **fields: object) -> EndToEndJob:
    """A job whose network's name says what `run` does."""
    return EndToEndJob(
        network=NetworkSpec(name=what),
        dataset=DatasetSpec(),
        fingerprint="0" * 64,
        data_root="data",
        cache="cache",
        device="cpu",
        work=str(work),
        slots=str(work.parent / "slots"),
        **fields,
    )


def run(job: Job, progress: Progress, stop: Stop) -> None:
    """Do what the network's name says."""
    assert isinstance(job, EndToEndJob)
    what = job.network.name
    work = Path(job.work)
    if what in ERRORS:
        raise ERRORS[what]
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "count":
        _count(work, progress, stop, steps=3, seconds=0.05)
    if what == "long":
        _count(work, progress, stop, steps=1000, seconds=0.05)
    if what == "wordy":
        _count(work, progress, stop, steps=100, seconds=0, text=1000 * "x")
    if what == "deaf":
        progress({"event": "epoch"})
        time.sleep(600)
    if what == "flow":
        flow = ForkServer("tests.modkernel.helpers.quick_server:run")
        flow.run(make_job(work / "job", "long"))
    if what == "describe":
        progress(
            {
                "event": "epoch",
                "threads": torch.get_num_threads(),
                "cuda": torch.cuda.is_initialized(),
                "device": job.device,
                "parent": os.getppid(),
                "loaded": [name for name in sys.modules if name.count(".") == 1],
            }
        )
    part = work / "part"
    part.mkdir()
    part.rename(job.result)


def _count(
    work: Path, progress: Progress, stop: Stop, steps: int, seconds: float, text: str = ""
) -> None:
    saved = work / "checkpoint"
    first = int(saved.read_text()) if saved.exists() else 0
    for step in range(first, steps):
        if stop():
            raise StoppedError("stopped")
        time.sleep(seconds)
        saved.write_text(str(step + 1))
        progress({"event": "epoch", "epoch": step + 1, "time": time.time(), "text": text})


ERRORS: dict[str, Exception] = {
    "pair": PairError("no same pair"),
    "disk": SafetensorError("I/O error: No space left on device (os error 28)"),
    "name": UnknownNameError("kernel", "x", ["relu"]),
    "bug": ZeroDivisionError("division by zero"),
    "memory": MemoryError(),
    "base": ModkernelError("something"),
}
