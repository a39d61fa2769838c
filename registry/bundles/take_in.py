"""Into a registry: all of a bundle is checked, then stored as trained modules are."""

from __future__ import annotations

import shutil
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from modkernel.errors import BundleError, NameTakenError, NotFoundError
from modkernel.registry.bundles.archive import Archive, opened, unpack
from modkernel.registry.bundles.check import Checked, CheckedModule, check
from modkernel.registry.bundles.manifest import Manifest, NetworkEntry
from modkernel.registry.bundles.signing import check_signature
from modkernel.registry.records import ModuleRecord, NetworkRecord
from modkernel.registry.registry import Registry
from modkernel.registry.sql import queries
from modkernel.registry.sql.names import refuse_taken


@dataclass(frozen=True)
class Imported:
    """What became of a bundle.

    Attributes:
        manifest: of the bundle.
        signer: fingerprint of the key that signed it; none where nobody did.
        modules: its chain, first to last, as the registry has it now.
        new: ids of those that were not there before.
        moments: how many moments of its modules were not there before.
        network: the network, if it is one.
        network_is_new: whether that was not there before.
    """

    manifest: Manifest
    signer: str | None
    modules: tuple[ModuleRecord, ...]
    new: frozenset[str]
    moments: int
    network: NetworkRecord | None
    network_is_new: bool


def import_bundle(registry: Registry, path: Path, expected: str | None = None) -> Imported:
    """Store all of a bundle that the registry does not have yet; a second time changes nothing.

    Everything is checked before anything is stored. A process that dies in between leaves what
    one leaves that stores a trained module: importing again, or `Registry.repair`, goes on.

    Args:
        registry: stores it.
        path: the bundle's file.
        expected: id of the module or network that it has to be of.

    Raises:
        BundleError: the bundle is damaged, foreign or not signed by whom it has to be.
        SpecError: a spec names code of a package that is not trusted.
        SettingsError: a trusted key is none.
        NameTakenError: modules have the network's name, or a network has a module's.
        StoreError: the database or MLflow failed; importing again resumes from there.
    """
    settings = registry.settings
    with opened(path) as archive:
        if expected not in (None, archive.manifest.id):
            raise BundleError(
                f"{path.name} is of {archive.manifest.what}, not of {expected:.12}: have it pushed "
                "again."
            )
        signer = check_signature(archive.signature, archive.manifest_bytes, settings.trusted_keys)
        # Under a claim of that key, as the work of training: a folder that a killed process left
        # is swept away by the next flow, or by who imports the bundle again.
        folder = settings.work_dir / archive.digest
        with registry.backends.wait_for_claim(archive.digest).renewed():
            try:
                return _stored(
                    registry, archive.manifest, _checked(registry, archive, folder), signer
                )
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _checked(registry: Registry, archive: Archive, folder: Path) -> Checked:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        unpack(archive, folder)
    except OSError as error:
        raise BundleError(
            f"Cannot unpack the bundle in {folder}: {error.strerror or error}. Make room there, or "
            "set MODKERNEL_HOME to a folder that you can write to."
        ) from error
    return check(archive.manifest, folder, registry.settings.trusted_packages)


def _stored(
    registry: Registry, manifest: Manifest, checked: Checked, signer: str | None
) -> Imported:
    new = frozenset(
        module.stored.id for module in checked.modules if not _is_ready(registry, module.stored.id)
    )
    there = None if manifest.network is None else _found(registry, manifest.network)
    _check_names(registry, manifest, checked, new, there)
    for digests in checked.examples:
        registry.examples.remember(digests, from_bundle=True)
    records, moments = [], 0
    for module in checked.modules:
        record, more = _store_module(registry, module)
        records.append(record)
        moments += more
    network = there
    if manifest.network is not None and (there is None or there.version is None):
        network = _store_network(registry, manifest.network, records, checked, there)
    network_is_new = network is not None and there is None
    return Imported(manifest, signer, tuple(records), new, moments, network, network_is_new)


def _is_ready(registry: Registry, module_id: str) -> bool:
    found = queries.by_id(registry.backends.database, module_id)
    return found is not None and found.state == "READY"


def _found(registry: Registry, entry: NetworkEntry) -> NetworkRecord | None:
    try:
        return registry.networks.resolve(entry.id)
    except NotFoundError:
        return None


def _check_names(
    registry: Registry,
    manifest: Manifest,
    checked: Checked,
    new: Set[str],
    there: NetworkRecord | None,
) -> None:
    """Look whether all names are free, while nothing is stored; what is there keeps its own."""
    modules = [one.entry.name for one in checked.modules if one.stored.id in new]
    networks = [] if manifest.network is None or there is not None else [manifest.network.name]
    refuse_taken(registry.backends.database, networks=networks, modules=modules)


def _store_module(registry: Registry, module: CheckedModule) -> tuple[ModuleRecord, int]:
    """A module as it is stored now, and how many moments of it are new."""
    entry = module.entry
    record = registry.modules.store(
        module.stored.folder,
        name=entry.name,
        report=module.report,
        figures=module.figures,
        dataset=entry.dataset,
        pairs=entry.pairs,
    )
    new = 0
    for file, dataset in module.moments.items():
        if not registry.moments.has(record, file.stem):
            registry.moments.store(record, file, dataset)
            new += 1
    return record, new


def _store_network(
    registry: Registry,
    entry: NetworkEntry,
    modules: list[ModuleRecord],
    checked: Checked,
    there: NetworkRecord | None,
) -> NetworkRecord:
    """The network, or what an import that broke off has left of it, as a version in MLflow."""
    dataset = modules[-1].spec.dataset.name
    run_id = None if there is None else there.run_id
    if run_id is None:
        run_id = registry.runs.start_network(entry.name, dataset, entry.spec, entry.id)
    try:
        record = registry.networks.add(
            entry.name,
            [module.id for module in modules],
            entry.evaluation,
            run_id,
            entry.spec,
            checked.figures,
        )
    except (NameTakenError, NotFoundError):
        # Taken or deleted meanwhile. Whatever else fails, importing again goes on in this run.
        registry.runs.finish(run_id, "FAILED")
        raise
    registry.runs.finish(record.run_id or run_id)
    return record
