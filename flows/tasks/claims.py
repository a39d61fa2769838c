"""Who trains a recipe: claim it or wait for the one who has, and keep the claim while training."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prefect.logging import get_run_logger

from modkernel.data.pixel_cache import read_json
from modkernel.errors import StoppedError
from modkernel.flows.runtime.events import tell
from modkernel.flows.runtime.interrupts import stoppable
from modkernel.registry import Claim, Registry
from modkernel.registry.backends import this_process

T = TypeVar("T")

POLL_SECONDS = 0.3
RESUMED = ("hidden", "end_to_end")
"""Kinds of jobs that leave checkpoints."""


def claim_unless(
    registry: Registry, digest: str, find: Callable[[], T | None], waiting: Callable[[], None]
) -> T | Claim:
    """What `find` finds, or else a claim on the recipe to make it.

    Waits while another holds the claim: it may finish, give up or die.

    Args:
        registry: keeps the claims.
        digest: of the recipe.
        find: looks for what is ready; asked again under the claim, so nothing is made twice.
        waiting: called once if there is a wait.

    Raises:
        StoppedError: interrupted while waiting.
    """
    told, stop = False, threading.Event()
    with stoppable(stop):
        while True:
            found = find()
            if found is not None:
                return found
            claim = registry.claim(digest, this_process())
            if claim is not None:
                found = find()
                if found is None:
                    return claim
                claim.release()
                return found
            if not told:
                waiting()
                told = True
            if stop.wait(POLL_SECONDS):
                raise StoppedError("Waiting for another flow was interrupted: run it again.")


def find_or_make(
    registry: Registry,
    key: str,
    label: str,
    find: Callable[[], T | None],
    make: Callable[[threading.Event], T],
) -> tuple[T, bool]:
    """What `find` finds, or else what `make` makes under the claim on a key; and which it was.

    Waiting and failing are told, and the key's work folder is removed at the end.

    Args:
        registry: keeps the claims.
        key: of what is made: a recipe digest, or another that names the work folder.
        label: what it is called in progress.
        find: looks for what is ready; asked again under the claim, so nothing is made twice.
        make: is given an event that is set when the claim is lost: it must stop then.

    Returns:
        It, and whether it was made now.

    Raises:
        StoppedError: interrupted while waiting.
        StoreError: the claim was lost.
    """

    def waiting() -> None:
        get_run_logger().info("Another flow works on this module: waiting for it.")
        tell(label, "waiting")

    found = claim_unless(registry, key, find, waiting)
    made = isinstance(found, Claim)
    if isinstance(found, Claim):
        try:
            with kept(found) as lost:
                value = make(lost)
        except BaseException:
            tell(label, "failed")
            raise
    else:
        value = found
    remove_work(registry, key)
    return value, made


def remove_work(registry: Registry, key: str) -> None:
    """Remove the work folder of a key, unless somebody is at work in it.

    Under a claim that ended by a kill, the folder outlives what was stored from it. What is stored
    is found before all of its folder has been kept: only who holds the claim may remove it.
    """
    folder = registry.settings.work_dir / key
    claim = registry.claim(key, this_process()) if folder.exists() else None
    if claim is not None:
        with claim:
            shutil.rmtree(folder, ignore_errors=True)


def sweep_work(registry: Registry) -> None:
    """Remove the work folders that nobody will go on with, left by flows that were killed.

    A folder with the checkpoint of a module that is not stored yet stays.
    """
    for folder in registry.settings.work_dir.iterdir():
        job = read_json(folder / "job.json")
        resumes = isinstance(job, dict) and job.get("kind") in RESUMED
        if not resumes or registry.modules.find_ready(folder.name) is not None:
            remove_work(registry, folder.name)


@contextmanager
def kept(claim: Claim) -> Iterator[threading.Event]:
    """Keep a claim until the block ends. The event is set when it is lost: stop then.

    Raises:
        StoreError: the block was stopped because the claim was lost.
    """
    lost = threading.Event()
    with claim.renewed(lost):
        try:
            yield lost
        except StoppedError:
            if lost.is_set():
                claim.renew()  # Says why it cannot.
            raise
