"""How many cores and how much memory this machine, or the container around us, has for us."""

from __future__ import annotations

import math
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")
"""Where a container sees the limits of its own control group (version 2)."""


def usable_cores(group: Path = GROUP) -> int:
    """Cores that keep busy at once, at least 1: those we may run on, and a container's quota.

    A quota (`docker run --cpus`, a Kubernetes limit) leaves the affinity as it is, and stops all
    threads for the rest of each period once it is used up: more threads than this only wait.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Not on every system.
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # No group, or 'max': no limit.
        return cores


def all_memory(group: Path = GROUP) -> int:
    """Bytes of memory in all, free or not: of the machine, or of the container if it has less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int((group / "memory.max").read_text()))
    except (OSError, ValueError):
        return machine
