"""Cores and memory: the lesser of what the machine and its container allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modkernel.system.limits import all_memory, usable_cores

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("3200000 100000\n", 8),
        ("nonsense\n", 8),
    ],
)
def test_a_quota_bounds_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("limit", "memory"),
    [(None, MACHINE), ("max\n", MACHINE), (f"{1 << 20}\n", 1 << 20), (f"{1 << 60}\n", MACHINE)],
)
def test_a_container_bounds_the_memory(tmp_path: Path, limit: str | None, memory: int) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert all_memory(tmp_path) == memory
