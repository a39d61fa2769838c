"""MLflow runs that end as what happened in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

from modkernel.errors import StoppedError
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import NetworkSpec


@contextmanager
def ending_with(registry: Registry, run_id: str) -> Iterator[None]:
    """End a run as finished, failed or (stopped, interrupted, cancelled) killed with the block.

    A run whose process is killed stays running, and is resumed by the next call.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, StoppedError) or not isinstance(error, Exception)
        registry.runs.finish(run_id, "KILLED" if stopped else "FAILED")
        raise
    registry.runs.finish(run_id, "FINISHED")


@contextmanager
def network_run(
    registry: Registry, name: str, recipe: NetworkSpec | str, needed: bool
) -> Iterator[str | None]:
    """The parent run of a network's modules, or none where nothing is to be trained.

    Args:
        registry: has the run.
        name: of the network.
        recipe: what it is made from, or words that tell this: a run that died with the same ones
            is resumed.
        needed: whether something is to be trained.
    """
    if not needed:
        yield None
        return
    if isinstance(recipe, str):
        run_id = registry.runs.start_network(name, digest=sha256(recipe.encode()).hexdigest())
    else:
        run_id = registry.runs.start_network(name, recipe)
    with ending_with(registry, run_id):
        yield run_id


def is_recorded(registry: Registry, name: str, modules: Sequence[ModuleRecord]) -> bool:
    """Whether a network of just these modules stands in the registry under a name.

    A flow that died after its last module was stored has left none, and its run open.
    """
    ids = tuple(module.id for module in modules)
    return any(network.module_ids == ids for network in registry.networks.find(name))
