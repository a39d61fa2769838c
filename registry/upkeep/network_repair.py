"""What is wrong with networks in MLflow, and what is done about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from modkernel.errors import ArtifactError, NotFoundError, StoreError
from modkernel.registry.backends import Backends, this_process
from modkernel.registry.records import Action, ModuleRecord, NetworkRecord, Problem
from modkernel.registry.sql import claims, networks
from modkernel.registry.tracking.experiments import Doomed
from modkernel.registry.tracking.tags import network_tags
from modkernel.registry.upkeep import network_versions, pages


def problems(backends: Backends) -> Iterator[Problem]:
    """Each problem of the networks, oldest first. Of lost modules the modules' problems tell.

    Raises:
        StoreError: the database or MLflow does not answer at all.
    """
    for network in networks.find(backends.database):
        try:
            yield from _of_network(backends, network)
        except StoreError as error:
            backends.check_answers()
            yield _problem("unread", network, f" cannot be checked now: {error}")


def _of_network(backends: Backends, network: NetworkRecord) -> Iterator[Problem]:
    doomed = _doomed(backends, network)
    if doomed is not None:
        message = (
            f"MLflow's {doomed} is deleted, and the next 'mlflow gc' takes it for good: "
            "'modkernel repair' brings it back."
        )
        yield _problem("deleted", network, f": {message}")
    modules = pages.members(backends, network)
    if any(module.state != "READY" for module in modules):
        return
    if network.version is None:
        if not claims.is_held(backends.database, network.id):
            yield _problem(
                "unfinished",
                network,
                " has no version in MLflow yet: 'modkernel repair' makes it.",
            )
        return
    yield from _of_version(backends, network, modules)


def _of_version(
    backends: Backends, network: NetworkRecord, modules: tuple[ModuleRecord, ...]
) -> Iterator[Problem]:
    try:
        network_versions.check(backends, network, modules)
    except ArtifactError as error:
        yield _problem("artifact", network, f" is not as it was stored: {error}")
        return
    found, wrong = pages.version_of(backends, network)
    if wrong is not None:
        yield _problem("version", network, f" {wrong}")
    elif not network_tags(network, modules).items() <= found.items():
        yield _problem("page", network, pages.OUTDATED)


def fix(backends: Backends, problem: Problem) -> Iterator[Action]:
    """What was done about a problem; nothing while another process works on the network."""
    assert problem.network_id is not None
    claim = claims.take(
        backends.database, problem.network_id, this_process(), backends.settings.lease_seconds
    )
    if claim is None:
        return
    done = False
    with claim.renewed(), claim.unless_lost():
        yield from _fix(backends.under(claim), problem.network_id, problem.kind)
        done = True
    if not done:
        backends.under_claim(problem.network_id, partial(_leave_one, problem.network_id))


def _leave_one(network_id: str, backends: Backends, _: bool) -> None:
    """Leave one model and one version of a network: who lost its claim may have made others."""
    network = networks.by_id(backends.database, network_id)
    if network is not None:
        network_versions.complete(backends, network, {})


def _fix(backends: Backends, network_id: str, kind: str) -> Iterator[Action]:
    network = networks.by_id(backends.database, network_id)
    if network is None:
        return
    if kind == "deleted":
        doomed = _doomed(backends, network)
        if doomed is not None:
            backends.runs.bring_back(doomed)
            text = f": MLflow's {doomed} was deleted, but it is needed: it is back."
            yield _action("restored", network, text)
        return
    if kind == "page":
        pages.network_page(backends, network)
        yield _action("rewritten", network, "'s page in MLflow is up to date.")
        return
    done = network_versions.complete(backends, network, {})
    kinds = {"unfinished": "finished", "artifact": "restored", "version": "registered"}
    yield _action(kinds[kind], done, f" is {_version_of(backends, network, done)}.")


def _version_of(backends: Backends, before: NetworkRecord, done: NetworkRecord) -> str:
    if before.version is None or before.version == done.version:
        return f"version {done.version}"
    found = backends.models.version(done.name, str(done.version))
    aliases = ", ".join(f"@{alias}" for alias in sorted(found.aliases))
    return f"version {done.version}, no longer version {before.version}" + (
        f"; {aliases} means it still" if aliases else ""
    )


def _doomed(backends: Backends, network: NetworkRecord) -> Doomed | None:
    """What is deleted in MLflow of what keeps a network: its experiment, or its run."""
    doomed = None if network.run_id is None else backends.runs.doomed(network.run_id)
    if doomed is None and network.model_id is not None:
        with suppress(NotFoundError):  # which the check of its files tells
            doomed = backends.models.doomed(network.model_id)
    return doomed


def _problem(kind: str, network: NetworkRecord, text: str) -> Problem:
    return Problem.model_validate(_told(kind, network, text))


def _action(kind: str, network: NetworkRecord, text: str) -> Action:
    return Action.model_validate(_told(kind, network, text))


def _told(kind: str, network: NetworkRecord, text: str) -> dict[str, str | None]:
    return {
        "kind": kind,
        "module_id": None,
        "network_id": network.id,
        "name": network.name,
        "message": f"Network {network.short_id} ({network.name}){text}",
    }
