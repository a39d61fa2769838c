"""How much memory this process has used, and may still take."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

GUESSED_MEMORY = 4 << 30
"""Bytes of free memory where the system does not tell."""


def peak_memory() -> dict[str, int]:
    """Largest memory of this process so far, in bytes: resident, and allocated on the GPU."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_memory_bytes": resident if sys.platform == "darwin" else resident * 1024,
        "peak_gpu_memory_bytes": (
            torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        ),
    }


def free_memory() -> int:
    """Bytes of memory that this process may still take, by the machine and by its container."""
    free = [_available(Path("/proc/meminfo")), _left_in_group(Path("/sys/fs/cgroup"))]
    known = [amount for amount in free if amount is not None]
    return min(known) if known else GUESSED_MEMORY


def _available(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return None
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None


def _left_in_group(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(0, limit - used + _idle_file_pages(group))


def _idle_file_pages(group: Path) -> int:
    """Bytes of files that the kernel keeps only until the memory is wanted, such as a set's own."""
    try:
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(facts["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0
