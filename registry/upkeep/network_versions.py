"""A network's version in MLflow: each step can be repeated, and tells how far it came.

Row -> run -> figures, parameters, data, modules -> model that names the modules -> version tagged
with the network's id. A process that dies in between leaves a row without a version; adding the
same network again, or `Registry.repair`, resumes from what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from modkernel.errors import ArtifactError, NotFoundError
from modkernel.registry import flavor
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord, NetworkRecord
from modkernel.registry.sql import networks, queries
from modkernel.registry.sql.tables import NetworkRow
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.models import fit_version
from modkernel.registry.tracking.network_card import run_note
from modkernel.registry.tracking.tags import facts_of, network_tags
from modkernel.registry.upkeep import pages


def complete(
    backends: Backends, network: NetworkRecord, figures: Mapping[str, bytes]
) -> NetworkRecord:
    """The record of a network with all that it has in MLflow; what is there already stays.

    Whoever calls this holds the claim on the network's id.

    Args:
        backends: Where things are.
        network: The network.
        figures: Pictures for its card, bytes by file name.

    Raises:
        NotFoundError: a module is not ready.
        StoreError: the database or MLflow failed; to call it again goes on from there.
    """
    modules = tuple(queries.required(backends.database, one) for one in network.module_ids)
    network = _ensure_run(backends, network, modules)
    assert network.run_id is not None
    backends.runs.log_figures(network.run_id, figures)
    network = _ensure_model(backends, network, modules)
    network = _ensure_version(backends, network, modules)
    pages.network_changed(backends, network)
    return network


def check(backends: Backends, network: NetworkRecord, modules: tuple[ModuleRecord, ...]) -> None:
    """Check a network's MLflow model: its files, and that it names the modules where they are.

    Raises:
        ArtifactError: a file is missing, altered or not ours, or a module is elsewhere by now.
        StoreError: a file cannot be read now.
    """
    model_id = network.model_id or ""
    below = [module.model_id for module in modules]
    artifacts.check_model(backends.client, model_id, network.files or {}, below)


def _ensure_run(
    backends: Backends, network: NetworkRecord, modules: tuple[ModuleRecord, ...]
) -> NetworkRecord:
    runs, run_id, facts = backends.runs, network.run_id, modules[-1].spec.dataset
    if run_id is None or not runs.ensure(run_id):
        # Nothing was trained for it: where its flow has a run, that one is named and ends itself.
        run_id = runs.start_network(network.name, facts.name, digest=network.id)
        network = update(backends, network, run_id=run_id)
        runs.finish(run_id)
    models = [module.model_id for module in modules if module.model_id is not None]
    hidden = sum(module.kind != "output" for module in modules)
    params = facts_of(modules) | {"hidden modules": str(hidden)}
    runs.describe_network(run_id, facts, params, models, run_note(network, modules))
    return network


def _ensure_model(
    backends: Backends, network: NetworkRecord, modules: tuple[ModuleRecord, ...]
) -> NetworkRecord:
    intact, unfit = None, []
    reached = {} if network.evaluation is None else network.evaluation.metrics()
    for model_id in backends.models.logged(network):
        if intact is None and _is_intact(backends, model_id, network, modules):
            intact = model_id
        else:
            unfit.append(model_id)
    if intact is None:

        def written(files: Mapping[str, str]) -> None:
            # Before the first byte is in MLflow's store, which others may write to.
            nonlocal network
            network = update(backends, network, files=dict(files))

        save = partial(flavor.save_network, network=network, chain=modules, written=written)
        backends.check_claim()
        intact = backends.models.log(network, "network", save, reached)
    else:
        backends.runs.log_metrics(network.run_id or "", reached)
    artifacts.flush_model(backends.client, intact)
    # First of all: where another has the claim by now, one of the others may be its.
    network = update(backends, network, model_id=intact)
    for model_id in unfit:
        backends.discard("model", model_id, network.name)
    return network


def _is_intact(
    backends: Backends,
    model_id: str,
    network: NetworkRecord,
    modules: tuple[ModuleRecord, ...],
) -> bool:
    if network.files is None:
        return False
    try:
        check(backends, network.model_copy(update={"model_id": model_id}), modules)
    except ArtifactError:
        return False
    return True


def _ensure_version(
    backends: Backends, network: NetworkRecord, modules: tuple[ModuleRecord, ...]
) -> NetworkRecord:
    models = backends.models
    versions = models.versions(network)
    version = fit_version(network, versions)
    is_new = version is None
    if version is None:
        card = pages.card_of(backends, network, modules)
        backends.check_claim()
        version = models.add_version(network, network_tags(network, modules), card)
    network = update(backends, network, version=int(version.version))
    models.replace_versions(versions, version)
    backends.bring_back_aliases(network, version, is_new)
    return network


def update(backends: Backends, network: NetworkRecord, **changes: object) -> NetworkRecord:
    """Set columns of a network's row.

    Raises:
        NotFoundError: it was deleted meanwhile.
    """
    with backends.writing() as session:
        row = session.get(NetworkRow, network.id)
        if row is None:
            raise NotFoundError(
                f"Network {network.short_id} ({network.name}) was deleted meanwhile."
            )
        for name, value in changes.items():
            setattr(row, name, value)
        session.flush()
        return networks.record_of(row)
