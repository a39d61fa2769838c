"""Make a thing once, whoever asks: find it, or claim it and have a child make it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from prefect.logging import get_run_logger

from modkernel.errors import StoppedError, StoreError
from modkernel.flows.runtime.claims import claim_unless, renewed
from modkernel.flows.runtime.events import Note, State, emit, tell
from modkernel.flows.tasks.child import Follow, run_child
from modkernel.flows.tasks.work_folder import remove_work
from modkernel.flows.team.dispatch import Work, is_worth_it, send, sends_work
from modkernel.jobs.job import Job
from modkernel.registry import Claim, Holder, Registry

T = TypeVar("T")


class RunChild(Protocol):
    """Runs a job in a child to its end, stopped where the claim is lost; see `run_child`."""

    def __call__(self, job: Job, follow: Follow | None = None) -> None:
        """Run the job; `follow` is given what the child reports."""


def once(
    registry: Registry,
    key: str,
    label: str,
    doing: State,
    *,
    find: Callable[[], T | None],
    make: Callable[[RunChild], T],
    work: Callable[[], Work] | None,
    made: State = "stored",
    found: State = "reused",
) -> tuple[T, bool]:
    """What `find` finds, or else what `make` makes under the claim on a key; and which it was.

    Every state on the way is emitted, and the key's work folder is removed at the end.

    Args:
        registry: keeps the claims.
        key: of what is made: a recipe digest, or another that names the work folder.
        label: what it is called in progress.
        doing: its state while a child is at work.
        find: looks for what is ready; asked again under the claim, so nothing is made twice.
        make: has a child do a job by the function that it is given, and stores what that leaves.
        work: the same, for another machine of a team; none for what must be made here.
        made: the state of what was made.
        found: the state of what was found.

    Returns:
        It, and whether it was made while this waited, here or on another machine.

    Raises:
        StoppedError: interrupted while waiting or working.
        StoreError: the claim was lost.
        ModkernelError: what ended making it.
    """

    def waiting(holder: Holder) -> None:
        text = f"{label}: another flow works on it, which is waited for: {holder}."
        get_run_logger().info(text)
        tell(label, "waiting")
        emit(Note(text))

    sent = _sent(registry, key, label, doing, find, work)
    ready = claim_unless(registry, key, find, waiting) if sent is None else sent
    if isinstance(ready, Claim):
        try:
            with renewed(ready) as lost:
                tell(label, doing)
                value, is_new = make(partial(run_child, label, doing, lost)), True
        except BaseException as error:
            _tell_end(label, error)
            raise
    else:
        value, is_new = ready, sent is not None
    remove_work(registry, key)
    tell(label, made if is_new else found)
    return value, is_new


def _sent(
    registry: Registry,
    key: str,
    label: str,
    doing: State,
    find: Callable[[], T | None],
    work: Callable[[], Work] | None,
) -> T | None:
    """What another machine of the team has made now; None where it is found, or made, here."""
    if work is None or not sends_work(registry.settings) or find() is not None:
        return None
    asked = work()
    if not is_worth_it(registry.settings, asked):
        return None
    try:
        send(key, label, doing, asked)
        value = find()
        if value is None:
            raise StoreError(
                f"{label} was made on another machine, and is not in this registry: that machine "
                "has another database or MLflow server. Set MODKERNEL_DATABASE_URL and "
                "MODKERNEL_MLFLOW_URI to the same there."
            )
    except BaseException as error:
        _tell_end(label, error)
        raise
    return value


def _tell_end(label: str, error: BaseException) -> None:
    if not isinstance(error, StoppedError):
        return tell(label, "failed")
    tell(label, "interrupted")
    emit(Note(f"{label}: {error}"))
