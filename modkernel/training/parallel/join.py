"""Joining the processes that train together: torch's default process group, on this machine alone.

What they send each other goes through the loopback interface. Those of `joined` find each other by
a file: no other machine can reach them. Those of `torchrun` find each other by a store of its own,
whose port may be open to other machines: start it where only trusted ones can reach this one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from modkernel.errors import SettingsError
from modkernel.training.parallel.ranks import ALONE, Ranks

__all__ = ["here", "joined", "torchrun"]

LOOPBACK = ("lo", "lo0")
"""Names of the loopback interface: Linux's and macOS's."""
LONGEST_WAIT = timedelta(days=7)
"""For another process: the first one measures, and trains the output module, while others wait.
That one has ended is noticed at once by gloo, and by who started them."""


def here() -> Ranks:
    """The processes that this one has joined; `ALONE` where it has not."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined(rank: int, size: int, meeting: Path, device: str) -> Iterator[Ranks]:
    """Be one of the processes that train together, within the block.

    Args:
        rank: of this process, from 0.
        size: how many there are.
        meeting: a file that is not there yet, the same in all processes; it is made.
        device: 'cpu', or 'cuda' where every process has a GPU of its own as its current one.

    Raises:
        SettingsError: there is no loopback interface.
    """
    _stay_on_this_machine()
    store = distributed.FileStore(str(meeting), size)  # type: ignore[attr-defined]
    distributed.init_process_group(
        _backend(device), timeout=LONGEST_WAIT, store=store, rank=rank, world_size=size
    )
    try:
        yield Ranks(rank, size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def torchrun(device: str = "auto") -> Iterator[tuple[Ranks, str]]:
    """Join the processes that `torchrun --nproc-per-node N` has started; alone without it.

    Args:
        device: 'auto', 'cpu' or 'cuda'.

    Yields:
        The processes, and the device of this one: 'cpu', or 'cuda:K' for process K.

    Raises:
        SettingsError: there are fewer GPUs than processes, processes on other machines, or no
            loopback interface.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if size == 1:
        yield ALONE, "cuda" if cuda else "cpu"
        return
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        raise SettingsError(
            "A module is trained on the devices of one machine: start torchrun with --nnodes 1."
        )
    rank = int(os.environ["RANK"])
    if cuda and torch.cuda.device_count() < size:
        raise SettingsError(
            f"There are {torch.cuda.device_count()} GPUs here for {size} processes: give torchrun "
            "no larger --nproc-per-node, or use device 'cpu'."
        )
    if cuda:
        torch.cuda.set_device(rank)
    _stay_on_this_machine()
    distributed.init_process_group(_backend("cuda" if cuda else "cpu"), timeout=LONGEST_WAIT)
    try:
        yield Ranks(rank, size), f"cuda:{rank}" if cuda else "cpu"
    finally:
        distributed.destroy_process_group()


def _backend(device: str) -> str:
    """What tensors on the CPU go through, flags among them, and those on a GPU."""
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def _stay_on_this_machine() -> None:
    """Have the sockets of gloo and NCCL listen on the loopback interface alone."""
    names = [name for _, name in socket.if_nameindex()]
    found = next((name for name in LOOPBACK if name in names), None)
    if found is None:
        raise SettingsError(
            "Several devices need a loopback interface (lo or lo0), and there are only "
            f"{', '.join(names) or 'none'}: set one up, or train on one device."
        )
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = found
