"""Networks with all that a bundle takes along, and bundles that somebody has altered."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modkernel.data import ExampleDigests
from modkernel.modules.stored import module_id
from modkernel.registry import NetworkRecord, Registry
from modkernel.registry.bundles.manifest import MANIFEST, Manifest, folder_of, parse_manifest
from modkernel.registry.records import network_id
from modkernel.registry.sql.tables import Base, IdentityRow
from modkernel.spec import DatasetSpec, NetworkSpec
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.helpers.examples import (
    EVALUATION,
    Examples,
    report_of,
    write_example_moments,
)

PICTURE = b"\x89PNG\r\n\x1a\n picture"
HOME_PATH = "/home/somebody/Secret Project/birds.npz"
FEATURES = 2
"""Of the hidden modules of `Examples`: each gives two maps."""
DATASET = DatasetSpec(name="arrays", path=HOME_PATH)


def store_network(registry: Registry, examples: Examples, folder: Path) -> NetworkRecord:
    """A network of two hidden modules and an output module, with moments, pictures and all."""
    records = []
    chain = examples.chain()
    for part, stored in zip(("hidden-1", "hidden-2", "output"), chain, strict=True):
        records.append(
            registry.modules.store(
                stored.folder,
                name=f"net.{part}",
                report=report_of(stored),
                figures={"objective.png": PICTURE},
                dataset=DATASET,
            )
        )
    for seed, fingerprint in enumerate((FACTS.fingerprint, "b" * 64)):
        file = folder / f"moments-{seed}.safetensors"
        write_example_moments(file, records[1].id, seed, fingerprint, FEATURES)
        registry.moments.store(records[1], file, "animals" if seed else None)
    part = np.arange(9, dtype=np.int64)
    registry.examples.remember(ExampleDigests(FACTS.fingerprint, part[:6], part[6:8], part[8:]))
    spec = NetworkSpec(name="net", dataset=DATASET)
    run_id = registry.runs.start_network("net", "digits", spec)
    registry.runs.log_figures(run_id, {"network.png": PICTURE})
    registry.runs.finish(run_id)
    ids = [record.id for record in records]
    return registry.networks.add("net", ids, EVALUATION, run_id, spec)


def contents(path: Path) -> dict[str, bytes]:
    """The files of a bundle by name, but for its manifest."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    del found[MANIFEST]
    return found


def manifest_of(path: Path) -> Manifest:
    with zipfile.ZipFile(path) as archive:
        return parse_manifest(archive.read(MANIFEST))


def rewrite(path: Path, files: dict[str, bytes], **changes: Any) -> None:
    """Write a bundle of other files, with a manifest that has their hashes and other changes."""
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    }
    value = json.loads(manifest_of(path).canonical_json()) | {"files": listed} | changes
    write_raw(path, files, json.dumps(value).encode())


def write_raw(path: Path, files: dict[str, bytes], manifest: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {MANIFEST: manifest, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def add(name: str, content: bytes = b"evil", mode: int = stat.S_IFREG | 0o644) -> Any:
    """Append a file to the zip."""

    def change(bad: Path, good: object) -> None:
        with zipfile.ZipFile(bad, "a") as archive:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            archive.writestr(info, content)

    return change


def lie(name: str, **fields: int) -> Any:
    """Have the zip's table of contents say something else of the file whose name ends so."""

    def change(bad: Path, good: object) -> None:
        with zipfile.ZipFile(bad, "a") as archive:
            archive._didModify = True  # type: ignore[attr-defined]
            info = next(i for i in archive.filelist if i.filename.endswith(name))
            for field, value in fields.items():
                setattr(info, field, value)

    return change


def rows(registry: Registry) -> dict[str, int]:
    """How many rows of what is stored each table of a registry has, of those that have any."""
    tables = [one for one in Base.metadata.sorted_tables if one is not IdentityRow.__table__]
    with registry.backends.database.reading() as session:
        counts = {table.name: session.query(table).count() for table in tables}
    return {name: count for name, count in counts.items() if count}


def left_files(registry: Registry) -> list[Path]:
    """The files in a registry's working folder and cache."""
    settings = registry.settings
    found = (*settings.work_dir.rglob("*"), *settings.cache_dir.rglob("*"))
    return [path for path in found if path.is_file()]


def reforge(good: Path, bad: Path, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    """A bundle whose module of a kind has another spec, with ids, hashes and reports that fit it.

    An upstream LAST becomes the id that the last module had.
    """
    manifest = json.loads(manifest_of(good).canonical_json())
    files, entries = contents(good), manifest["modules"]
    last, made = entries[-1]["id"], {}
    for entry in entries:
        folder, old = folder_of(entry["id"]), entry["id"]
        mine = {n.removeprefix(f"{folder}/"): c for n, c in files.items() if n.startswith(folder)}
        text = mine["spec.json"].decode()
        for before, after in made.items():
            text = text.replace(before, after)
        spec = json.loads(text)
        if spec["kind"] == kind:
            change(spec)
            text = json.dumps(spec, sort_keys=True, separators=(",", ":")).replace("LAST", last)
        mine["spec.json"] = text.encode()
        digests = [
            hashlib.sha256(mine[name]).hexdigest() for name in ("weights.safetensors", "spec.json")
        ]
        report = json.loads(mine["report.json"]) | {"recipe_digest": digests[1]}
        mine["report.json"] = json.dumps(report).encode()
        made[old] = entry["id"] = module_id(*digests)
        files = {n: c for n, c in files.items() if not n.startswith(folder)}
        files |= {f"{folder_of(entry['id'])}/{name}": content for name, content in mine.items()}
    manifest["network"]["id"] = network_id(
        manifest["network"]["name"], [entry["id"] for entry in entries]
    )
    shutil.copyfile(good, bad)
    rewrite(bad, files, modules=entries, network=manifest["network"])
