"""Bytes are on the disk before a row says that they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from modkernel.registry import Registry, saga
from modkernel.registry.sql.tables import MomentsRow
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.system import files
from tests.registry.helpers.examples import Examples, store_one, write_example_moments
from tests.registry.test_store import kept_folder

READY, MEASURED = "the module's row says READY", "the row of the moments is there"


def inode(path: Path | int) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_dev, facts.st_ino


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was flushed, by inode, and when rows were written, in order."""
    done: list[Any] = []
    fsync, update = os.fsync, saga.update

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        done.append(inode(descriptor))

    def write(*arguments: Any, **changes: Any) -> Any:
        if changes.get("state") == "READY":
            done.append(READY)
        return update(*arguments, **changes)

    def measured(*_: Any) -> None:
        done.append(MEASURED)

    monkeypatch.setattr(files.os, "fsync", flush)
    monkeypatch.setattr(saga, "update", write)
    event.listen(MomentsRow, "before_insert", measured)
    yield done
    event.remove(MomentsRow, "before_insert", measured)


def test_a_module_and_its_moments_are_flushed_before_their_rows(
    registry: Registry, examples: Examples, order: list[Any]
) -> None:
    stored = examples.first()
    write_example_moments(stored.folder / MOMENTS_FILE, stored.id)
    order.clear()
    record = store_one(registry, stored)
    kept, (measured,) = kept_folder(registry, record), registry.moments.of(record)
    before = set(order[: order.index(READY)])
    for path in kept.iterdir():
        if path.name != "moments":
            assert inode(path) in before, path
    root = registry.settings.home
    parents = [folder for folder in (kept, *kept.parents) if folder.is_relative_to(root)]
    assert len(parents) == 6
    assert {inode(folder) for folder in parents} <= before
    since = set(order[order.index(READY) : order.index(MEASURED)])
    copy = registry.moments.copy_of(measured)
    for path in (kept / measured.path, (kept / measured.path).parent, copy, copy.parent):
        assert inode(path) in since, path


def test_a_private_copy_is_flushed_before_it_appears(
    registry: Registry, examples: Examples, order: list[Any]
) -> None:
    record = store_one(registry, examples.first())
    order.clear()
    folder = registry.modules.fetch(record).folder
    assert {inode(path) for path in (folder, *folder.iterdir(), folder.parent)} <= set(order)
