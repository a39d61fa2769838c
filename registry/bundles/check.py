"""What an unpacked bundle holds, checked before anything of it is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from modkernel.data import ExampleDigests
from modkernel.data.class_names import CONTROL
from modkernel.errors import ArtifactError, BundleError, InterfaceError, SpecError
from modkernel.lookup import trusting
from modkernel.modules.network import assemble, check_chain
from modkernel.modules.stored import (
    SPEC_FILE,
    StoredModule,
    check_spec_trusted,
    read_module,
)
from modkernel.registry.bundles.manifest import (
    NEEDED,
    NETWORK_FIGURES,
    REPORT,
    Manifest,
    ModuleEntry,
    folder_of,
    parse_json,
    read_json,
)
from modkernel.registry.bundles.moments import checked_moments
from modkernel.registry.records import network_id
from modkernel.training.report import TrainReport

LARGEST_SHAPE = 2**26
"""Numbers of one example between two modules: room for so many is made before weights are read."""
LONGEST_NAME = 200
"""Characters of a data set's name, which MLflow gives an experiment and a folder."""
MOST_EPOCHS = 2**31
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class CheckedModule:
    """A module of a bundle, as it can be stored.

    Attributes:
        entry: what the manifest says of it.
        stored: its two files.
        report: how it was trained.
        figures: pictures of its run by file name.
        moments: files of its moments, each with the name of the data set, where it was told.
    """

    entry: ModuleEntry
    stored: StoredModule
    report: TrainReport
    figures: dict[str, bytes]
    moments: dict[Path, str | None]


@dataclass(frozen=True)
class Checked:
    """A bundle, as it can be stored.

    Attributes:
        modules: its chain, first to last.
        examples: which examples these have seen.
        figures: pictures of the network's run by file name.
    """

    modules: tuple[CheckedModule, ...]
    examples: tuple[ExampleDigests, ...]
    figures: dict[str, bytes]


def check(manifest: Manifest, folder: Path, trusted: Sequence[str]) -> Checked:
    """Check all of an unpacked bundle, whose files have the hashes that they must have.

    Args:
        manifest: of the bundle.
        folder: where its files are.
        trusted: packages whose code a spec may name.

    Raises:
        BundleError: something is missing, is not what it has to be or does not fit.
        SpecError: a spec names code of a package that is not trusted.
    """
    _check_names(manifest)
    stored = [_stored(entry, folder) for entry in manifest.modules]
    _check_chain(manifest, stored)
    with trusting(trusted):
        for one in stored:
            check_spec_trusted(one.id, one.spec)
        _check_weights(stored, folder)
    learnt = {facts for one in stored for facts in one.spec.learnt_from}
    known = {fingerprint for facts in learnt for fingerprint in facts.fingerprints}
    return Checked(
        modules=tuple(
            CheckedModule(
                entry=entry,
                stored=one,
                report=_report(one),
                figures=_figures(one.folder / "figures"),
                moments=dict(checked_moments(entry, one)),
            )
            for entry, one in zip(manifest.modules, stored, strict=True)
        ),
        examples=tuple(_digests(path, known) for path in sorted(folder.glob("examples/*"))),
        figures=_figures(folder / NETWORK_FIGURES),
    )


def _check_names(manifest: Manifest) -> None:
    """Check that each module has what it needs, and that every file is of something."""
    name = None if manifest.network is None else manifest.network.name
    if name in {entry.name for entry in manifest.modules}:
        raise BundleError(
            f"The bundle has a network and a module of one name, {name}, and both would be "
            "versions of one registered model in MLflow: have one of them exported under another "
            "name."
        )
    files = set(manifest.files)
    for entry in manifest.modules:
        folder = folder_of(entry.id)
        needed = {f"{folder}/{name}" for name in NEEDED}
        needed |= {f"{folder}/moments/{name}.safetensors" for name in entry.moments}
        if missing := sorted(needed - files):
            raise BundleError(f"The bundle has no {missing[0]}. Have it exported again.")
        files -= needed
        files = {
            name for name in files if not name.startswith((f"{folder}/figures/", f"{folder}/card."))
        }
    files = {
        name
        for name in files
        if not name.startswith("examples/")
        and not (manifest.network is not None and name.startswith(NETWORK_FIGURES))
    }
    if files:
        raise BundleError(
            f"The bundle has {min(files)}, which is of none of its modules: nothing of it is taken."
        )


def _stored(entry: ModuleEntry, folder: Path) -> StoredModule:
    where = folder / folder_of(entry.id)
    read_json((where / SPEC_FILE).read_bytes(), f"{folder_of(entry.id)}/{SPEC_FILE}")
    try:
        stored = read_module(where)
    except ArtifactError as error:
        raise _refused(error, folder) from error
    if stored.id != entry.id:
        raise BundleError(
            f"The files of module {entry.id[:12]} ({entry.name}) are those of {stored.id[:12]}: "
            "the bundle was altered. Have it sent or exported again."
        )
    spec = stored.spec
    shapes = (spec.preprocessing.shape, spec.interface.takes, spec.interface.gives)
    if any(min(shape, default=0) < 1 or math.prod(shape) > LARGEST_SHAPE for shape in shapes):
        raise BundleError(
            f"Module {entry.id[:12]} ({entry.name}) has a shape of no number, or of more than "
            f"{LARGEST_SHAPE}: it is none that modkernel trained."
        )
    _check_data_names(entry, stored)
    return stored


def _check_data_names(entry: ModuleEntry, stored: StoredModule) -> None:
    """Check that MLflow can store the names of data and classes, and a terminal can show them."""
    learnt = stored.spec.learnt_from
    told = [name for name in entry.moments.values() if name is not None]
    if entry.dataset is not None:
        told.append(entry.dataset.name)
    for name in (*(facts.name for facts in learnt), *told):
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise BundleError(
                f"Module {entry.id[:12]} ({entry.name}) is of data named {name!r:.60}: the name "
                f"must have 1 to {LONGEST_NAME} characters, which can be printed."
            )
    classes = (*(name for facts in learnt for name in facts.classes), *(stored.spec.classes or ()))
    for name in classes:
        if CONTROL.search(name):
            raise BundleError(
                f"Module {entry.id[:12]} ({entry.name}) knows a class {name!r:.60}: its name must "
                "have no control characters."
            )


def _check_chain(manifest: Manifest, stored: Sequence[StoredModule]) -> None:
    try:
        check_chain(stored)
    except InterfaceError as error:
        raise BundleError(f"The chain in the bundle is not whole: {error}") from error
    network = manifest.network
    if network is None:
        return
    if network.id != network_id(network.name, [one.id for one in stored]):
        raise BundleError(
            f"Network {network.id[:12]} ({network.name}) is not of the modules in the bundle: it "
            "was altered. Have it sent or exported again."
        )


def _check_weights(stored: Sequence[StoredModule], folder: Path) -> None:
    """Check that the weights are those of the modules that the specs describe: build them."""
    try:
        weights = assemble(stored).state_dict()
    except SpecError:
        raise
    except Exception as error:  # Of specs that somebody made up, anything.
        raise _refused(error, folder) from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise BundleError(f"The weights '{name}' have values that are no numbers.")


def _report(stored: StoredModule) -> TrainReport:
    name = f"{folder_of(stored.id)}/{REPORT}"
    report = parse_json(TrainReport, (stored.folder / REPORT).read_bytes(), name)
    if report.recipe_digest != stored.spec_sha256:
        raise BundleError(f"{name} is the report of another module: the bundle was altered.")
    if any(not 1 <= line.epoch <= MOST_EPOCHS for line in report.history):
        raise BundleError(
            f"{name} has an epoch that is not between 1 and {MOST_EPOCHS}: it is of no training."
        )
    return report


def _figures(folder: Path) -> dict[str, bytes]:
    figures = {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}
    for name, content in figures.items():
        if not content.startswith(PNG):
            raise BundleError(f"The picture {name} in the bundle is no PNG file.")
    return figures


def _digests(path: Path, known: set[str]) -> ExampleDigests:
    name = f"examples/{path.name}"
    if path.stem not in known:
        raise BundleError(f"{name} in the bundle is of data that no module of it was trained on.")
    try:
        found = load_file(path)
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{name} in the bundle is no safetensors file: {error}.") from error
    parts = [found.get(part) for part in ("training", "validation")]
    if len(found) != 2 or any(
        part is None or part.dtype != np.int64 or part.ndim != 1 for part in parts
    ):
        raise BundleError(f"{name} in the bundle does not hold digests of examples.")
    return ExampleDigests(path.stem, found["training"], found["validation"], np.zeros(0, np.int64))


def _refused(error: Exception, folder: Path) -> BundleError:
    told = str(error).replace(f"{folder}/", "").strip().splitlines() or [type(error).__name__]
    return BundleError(f"The bundle does not hold modules that can be used: {told[0][:400]}")
