"""Out of a registry: a module or a network, and all that it stands on, in one file."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors.numpy import save

from modkernel.data.places import is_data_name
from modkernel.errors import BundleError, NotFoundError
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE
from modkernel.registry.bundles.manifest import (
    CARD,
    MANIFEST,
    NETWORK_FIGURES,
    REPORT,
    SIGNATURE,
    FileEntry,
    Manifest,
    ModuleEntry,
    NetworkEntry,
    folder_of,
    largest,
)
from modkernel.registry.bundles.signing import PrivateKey, signature_of
from modkernel.registry.records import ModuleRecord, NetworkRecord
from modkernel.registry.registry import Registry
from modkernel.registry.tracking.cards import module_card
from modkernel.spec import DatasetSpec, NetworkSpec, pairs_from, with_file
from modkernel.system.files import hash_file, written_whole

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""When all files of a bundle were changed: the least that a zip can say."""
READABLE = (stat.S_IFREG | 0o644) << 16
UNIX = 3
Content = bytes | Path


def export_bundle(
    registry: Registry, reference: str, path: Path, key: PrivateKey | None = None
) -> Manifest:
    """Write a module or a network, with its whole chain, into one file.

    Equal contents give equal bytes, from whatever registry.

    Args:
        registry: has it.
        reference: a module's (an id, NAME, NAME@ALIAS, NAME/VERSION) or a network's.
        path: the file; one that is there is replaced.
        key: signs it.

    Raises:
        NotFoundError, AmbiguousError: no module or network answers to it, or several do.
        ArtifactError: bytes are missing or altered in the registry.
        BundleError: it is too large, or cannot be written.
    """
    found = resolve(registry, reference)
    contents, manifest = contents_of(registry, found)
    try:
        with written_whole(path, durable=True) as temporary:
            write_bundle(temporary, manifest, contents, key)
    except OSError as error:
        raise BundleError(
            f"Cannot write {path}: {error.strerror or error}. Use a folder on a disk with room "
            "that you may write to."
        ) from error
    return manifest


def resolve(registry: Registry, reference: str) -> ModuleRecord | NetworkRecord:
    """The module that answers to a reference, or else the network.

    Raises:
        NotFoundError, AmbiguousError: none does, or several.
    """
    try:
        return registry.modules.resolve(reference)
    except NotFoundError as error:
        try:
            return registry.networks.resolve(reference)
        except NotFoundError:
            raise NotFoundError(
                f"{error} No network has that name or id either: see 'modkernel networks list'."
            ) from None


def chain_of(registry: Registry, found: ModuleRecord | NetworkRecord) -> tuple[ModuleRecord, ...]:
    """The modules of a network, or those that a module stands on, itself last."""
    if isinstance(found, NetworkRecord):
        return registry.networks.members(found)
    return registry.modules.chain(found)


def contents_of(
    registry: Registry, found: ModuleRecord | NetworkRecord
) -> tuple[dict[str, Content], Manifest]:
    """The files of a bundle by name, and its manifest.

    Raises:
        ArtifactError: bytes are missing or altered in the registry.
        BundleError: a file is larger than any bundle takes.
    """
    chain = chain_of(registry, found)
    contents: dict[str, Content] = {}
    modules = []
    for position, record in enumerate(chain):
        files, entry = _module(registry, record, chain[:position])
        contents |= files
        modules.append(entry)
    contents |= dict(_examples(registry, chain))
    network = None
    if isinstance(found, NetworkRecord):
        network = _network(found)
        contents |= dict(_figures(registry, found.run_id, NETWORK_FIGURES))
    listed = {name: _entry(name, contents[name]) for name in sorted(contents)}
    return contents, Manifest(modules=tuple(modules), network=network, files=listed)


def write_bundle(
    path: Path, manifest: Manifest, contents: dict[str, Content], key: PrivateKey | None
) -> None:
    """Write the zip.

    Raises:
        OSError: it cannot be written.
    """
    first = manifest.canonical_json().encode()
    ordered: dict[str, Content] = {MANIFEST: first}
    if key is not None:
        ordered[SIGNATURE] = signature_of(key, first).canonical_json().encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (ordered | {n: contents[n] for n in sorted(contents)}).items():
            info = zipfile.ZipInfo(name, LONG_AGO)
            info.create_system, info.external_attr = UNIX, READABLE
            info.file_size = _size(content)  # tells whether the entry needs 64 bits
            with archive.open(info, "w") as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)


def _module(
    registry: Registry, record: ModuleRecord, under: tuple[ModuleRecord, ...]
) -> tuple[dict[str, Content], ModuleEntry]:
    folder = folder_of(record.id)
    stored, report = registry.modules.fetch(record), registry.modules.report(record)
    # Numbers of versions are of one registry alone.
    numberless = [one.model_copy(update={"version": None}) for one in (*under, record)]
    files: dict[str, Content] = {
        f"{folder}/{WEIGHTS_FILE}": stored.folder / WEIGHTS_FILE,
        f"{folder}/{SPEC_FILE}": stored.folder / SPEC_FILE,
        f"{folder}/{REPORT}": report.canonical_json().encode(),
        f"{folder}/{CARD}": module_card(numberless[-1], numberless[:-1], report).encode(),
    }
    files |= dict(_figures(registry, record.run_id, f"{folder}/figures"))
    moments = {}
    for kept in registry.moments.of(record):
        registry.moments.read(record, kept)  # brings the private copy here, and hashes it
        files[f"{folder}/{kept.path}"] = registry.moments.copy_of(kept)
        moments[kept.fingerprint] = kept.dataset
    dataset, pairs = registry.modules.dataset(record), registry.modules.pairs_file(record)
    entry = ModuleEntry(
        id=record.id,
        name=record.name,
        dataset=None if dataset is None else _portable(dataset),
        pairs=_portable_pairs(pairs),
        moments=moments,
    )
    return files, entry


def _network(record: NetworkRecord) -> NetworkEntry:
    spec = None if record.spec is None else NetworkSpec.model_validate(_with_tails(record.spec))
    if spec is not None:
        spec = spec.changed(dataset=_portable(spec.dataset), pairs=_portable_pairs(spec.pairs))
    return NetworkEntry(id=record.id, name=record.name, spec=spec, evaluation=record.evaluation)


def _with_tails(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A network's stored spec; one from before there were tails has none, and does not say so."""
    hidden = [
        one if "tail" in one or one.get("projection") else {**one, "tail": "none"}
        for one in spec["hidden"]
    ]
    return {**spec, "hidden": hidden}


def _figures(registry: Registry, run_id: str | None, folder: str) -> Iterator[tuple[str, bytes]]:
    """Pictures of an MLflow run; none of one that is gone: what they show is in the report."""
    if run_id is None:
        return
    for path in registry.runs.figures(run_id):
        name = f"{folder}/{PurePosixPath(path).name}"
        if largest(name) is not None:
            yield name, registry.runs.read_file(run_id, path)


def _examples(registry: Registry, chain: tuple[ModuleRecord, ...]) -> Iterator[tuple[str, bytes]]:
    """Digests of the examples that modules have seen: advice leaves these out of a test."""
    learnt = {facts for record in chain for facts in record.spec.learnt_from}
    for fingerprint in {one for facts in learnt for one in facts.fingerprints}:
        found = registry.examples.digests(fingerprint)
        if found is not None:
            training, validation = found
            content = save({"training": training, "validation": validation})
            yield f"examples/{fingerprint}.safetensors", content


def _portable(dataset: DatasetSpec) -> DatasetSpec:
    return dataset.changed(path=_data_name(dataset.path))


def _portable_pairs(pairs: str | None) -> str | None:
    name = _data_name(pairs_from(pairs).file)
    # These two alone would be words for pairs that no file gives.
    return with_file(pairs, f"pairs-{name}" if name in ("views", "labels") else name)


def _data_name(path: str | None) -> str | None:
    """A name of data in place of a path, which is of one machine and may tell whose it is."""
    if path is None or is_data_name(path):
        return path
    return re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(path).stem).lstrip("-") or "data"


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _entry(name: str, content: Content) -> FileEntry:
    size, most = _size(content), largest(name)
    if most is None or size > most:
        raise BundleError(
            f"{name} has {size} bytes, and a bundle takes {most or 0} of it: it cannot be exported."
        )
    if isinstance(content, Path):
        return FileEntry(sha256=hash_file(content), size=size)
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=size)
