"""Pages of versions in MLflow, brought to what they are now: cards with links, and tags."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from modkernel.errors import NotFoundError
from modkernel.registry import saga
from modkernel.registry.backends import Backends
from modkernel.registry.records import ModuleRecord, NetworkRecord, VersionRecord
from modkernel.registry.sql import networks, queries
from modkernel.registry.sql.find import ModuleQuery, find_modules
from modkernel.registry.sql.queries import LINKED
from modkernel.registry.tracking.models import AWAITS_ALIASES
from modkernel.registry.tracking.network_card import network_card
from modkernel.registry.tracking.tags import network_tags

OUTDATED = (
    " has a page in MLflow that does not tell what is so now: 'modkernel repair' writes it again."
)
"""What is wrong with a version whose tags are not those that it should have."""


def version_of(backends: Backends, record: VersionRecord) -> tuple[dict[str, str], str | None]:
    """The tags of a record's version in MLflow, and what is wrong with it, as a predicate.

    Raises:
        StoreError: MLflow does not answer.
    """
    try:
        # Not by a search, which leaves out what one may not read.
        own = backends.models.version(record.name, str(record.version))
    except NotFoundError:
        own = None
    if own is None or (own.tags.get(record.tag), own.source) != (record.id, record.source):
        return {}, (
            f"has no version {record.version} in MLflow any more: 'modkernel repair' registers it "
            "again, under a new number."
        )
    numbers = sorted({int(one.version) for one in (own, *backends.models.versions(record))})
    if len(numbers) > 1:
        return {}, (
            f"has versions {', '.join(map(str, numbers))} in MLflow where one is enough: "
            f"'modkernel repair' leaves {record.version}, which gets the aliases of all."
        )
    if AWAITS_ALIASES in own.tags:
        return {}, (
            "was registered again by a process that died before its version had its aliases: "
            "'modkernel repair' sets them."
        )
    return dict(own.tags), None


def network_changed(backends: Backends, network: NetworkRecord) -> None:
    """Bring the pages of all that a network touches up to date: it was added, or has gone.

    Its modules name the networks that have them, and so do the other networks that share one. Of a
    module that many have, each names the oldest: a later one changes nothing for them.

    Raises:
        StoreError: MLflow does not answer.
    """
    others: dict[str, NetworkRecord] = {}
    for module_id in network.module_ids:
        record = queries.by_id(backends.database, module_id)
        if record is not None:
            module_page(backends, record)
        if queries.count_older(backends.database, module_id, network.created_at) <= LINKED:
            sharing = networks.with_modules(backends.database, [module_id])
            others |= {one.id: one for one in sharing}
    for one in others.values():
        network_page(backends, one)


def module_moved(backends: Backends, record: ModuleRecord) -> None:
    """Bring the pages up to date that link to a module: it is stored, or has another version.

    Raises:
        StoreError: MLflow does not answer.
    """
    below = queries.below(backends.database, record)
    for other in (*below, *queries.standing_on(backends.database, record.id)):
        module_page(backends, other)
    copies_changed(backends, record)
    for network in networks.with_modules(backends.database, [record.id]):
        network_page(backends, network)


def copies_changed(backends: Backends, record: ModuleRecord) -> None:
    """Bring the pages up to date of what a module has a copy of, and of what has a copy of it."""
    spec = record.spec
    upper = queries.by_id(backends.database, spec.upper_id) if spec.kind == "stitch" else None
    copies = find_modules(backends.database, ModuleQuery(copy_of=record.id))
    for other in (*((upper,) if upper else ()), *copies):
        module_page(backends, other)


def module_page(backends: Backends, record: ModuleRecord) -> None:
    """Bring the page of a module's version up to date; of one that has none, nothing."""
    if record.state != "READY":
        return
    uses = None
    # Another process may add a network in between, and tell what it knew before.
    while uses != (now := queries.uses(backends.database, record.id)):
        uses = now
        with suppress(NotFoundError):  # which a repair makes again
            backends.models.describe(record, *saga.page_of(backends, record, now))


def network_page(backends: Backends, network: NetworkRecord) -> None:
    """Bring the page of a network's version up to date; of one that has none, nothing."""
    if network.version is None:
        return
    modules = members(backends, network)
    with suppress(NotFoundError):  # which a repair makes again
        backends.models.describe(
            network, network_tags(network, modules), card_of(backends, network, modules)
        )


def card_of(backends: Backends, network: NetworkRecord, modules: Sequence[ModuleRecord]) -> str:
    """A network's card, as it is now."""
    shared = {one.id: queries.uses(backends.database, one.id) for one in modules}
    figures: list[tuple[str, str]] = []
    # Where it was composed without training there is no picture but its output module's.
    for run_id in (network.run_id, modules[-1].run_id):
        if run_id is not None and not figures:
            figures = [(run_id, path) for path in backends.runs.figures(run_id)]
    return network_card(network, modules, shared, figures)


def members(backends: Backends, network: NetworkRecord) -> tuple[ModuleRecord, ...]:
    """A network's modules in whatever state, first to last."""
    found = (queries.by_id(backends.database, module_id) for module_id in network.module_ids)
    return tuple(record for record in found if record is not None)
