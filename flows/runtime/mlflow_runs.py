"""MLflow runs that end as what happened in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

from prefect.logging import get_run_logger

from modkernel.errors import StoppedError
from modkernel.flows.runtime.claims import claim_unless, renewed
from modkernel.flows.runtime.events import Note, emit
from modkernel.flows.runtime.interrupts import undisturbed
from modkernel.registry import Claim, Holder, ModuleRecord, Registry
from modkernel.spec import NetworkSpec

QUIET_SECONDS = 3.0
"""For which an end that MLflow does not answer is waited for without a word."""


@contextmanager
def ending_with(registry: Registry, run_id: str) -> Iterator[None]:
    """End a run as finished, failed or (stopped, interrupted, cancelled) killed with the block.

    A run whose process is killed stays running, and is resumed by the next call.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, StoppedError) or not isinstance(error, Exception)
        with undisturbed(), _told_where_it_takes_long():
            registry.runs.finish(run_id, "KILLED" if stopped else "FAILED")
        raise
    registry.runs.finish(run_id, "FINISHED")


@contextmanager
def _told_where_it_takes_long() -> Iterator[None]:
    note = Note("MLflow is waited for, so that no run stays open in it: this ends by itself.")
    timer = threading.Timer(QUIET_SECONDS, emit, [note])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def network_run(
    registry: Registry,
    name: str,
    dataset: str,
    data: str,
    recipe: NetworkSpec | str,
    is_done: Callable[[], bool],
) -> Iterator[str | None]:
    """The parent run of a network's modules, or none where nothing is to be trained.

    Of any number of equal flows one has it, under a claim; the others wait until it has ended.

    Args:
        registry: has the run.
        name: of the network.
        dataset: name of its data set.
        data: tells that data set from others of its name, and from itself before it changed.
        recipe: what it is made from, or words that tell this: a run that died with the same ones
            and the same data is resumed.
        is_done: whether nothing is to be trained; asked again after a wait.

    Raises:
        StoppedError: interrupted while waiting.
    """
    key = _digest(recipe, data)
    held = claim_unless(registry, key, lambda: is_done() or None, tells_who_is_waited_for(name))
    if not isinstance(held, Claim):
        yield None
        return
    with renewed(held):
        spec = recipe if isinstance(recipe, NetworkSpec) else None
        run_id = registry.runs.start_network(name, dataset, spec, key)
        with ending_with(registry, run_id):
            yield run_id


def tells_who_is_waited_for(name: str) -> Callable[[Holder], None]:
    """What tells, in the log and on the terminal, for whom a flow that makes `name` waits."""

    def waiting(holder: Holder) -> None:
        text = f"{name}: another flow makes just this, which is waited for: {holder}."
        get_run_logger().info(text)
        emit(Note(text))

    return waiting


def _digest(recipe: NetworkSpec | str, data: str) -> str:
    made_from = recipe.digest() if isinstance(recipe, NetworkSpec) else recipe
    return sha256(f"{made_from} of {data}".encode()).hexdigest()


def is_recorded(registry: Registry, name: str, modules: Sequence[ModuleRecord]) -> bool:
    """Whether a network of just these modules stands in the registry under a name.

    A flow that died after its last module was stored has left none, and its run open.
    """
    ids = tuple(module.id for module in modules)
    return any(network.module_ids == ids for network in registry.networks.find(name))
