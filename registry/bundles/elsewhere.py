"""Networks that were trained elsewhere, into a registry: cut, checked, then stored as modules."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from modkernel.backbones.elsewhere import Usual
from modkernel.errors import SpecError
from modkernel.lookup import import_paths, trusting
from modkernel.modules.imported import ImportedNetwork, read_weights, write_network
from modkernel.modules.network import assemble
from modkernel.modules.source import find_source
from modkernel.registry.records import ModuleRecord
from modkernel.registry.registry import Registry
from modkernel.registry.sql import queries
from modkernel.registry.sql.names import refuse_taken
from modkernel.spec import Licence, Preprocessing
from modkernel.training.report import TrainReport


@dataclass(frozen=True)
class Images:
    """How a network's images are made, as far as somebody says so.

    Attributes:
        size: height and width.
        mean: of each channel, as a share of 255.
        std: likewise.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TakenIn:
    """What became of a network.

    Attributes:
        modules: first to last, as the registry has them.
        new: ids of those that were not there before.
        left_out: tensors of the file that no module has.
    """

    modules: tuple[ModuleRecord, ...]
    new: frozenset[str]
    left_out: tuple[str, ...]


def import_network(
    registry: Registry,
    source: str,
    name: str,
    ends: Sequence[str],
    *,
    weights: Path | None = None,
    licence: str | None = None,
    images: Images | None = None,
) -> TakenIn:
    """Store the modules of a network that was trained elsewhere; a second time changes nothing.

    All is checked before anything is stored. A process that dies in between leaves what one leaves
    that stores a trained module: importing again, or `Registry.repair`, goes on.

    Args:
        registry: stores them, as NAME.hidden-1, NAME.hidden-2, ….
        source: what the network is, see `find_source`. An import path is imported.
        name: of the network.
        ends: the block that each module ends with, in order.
        weights: file of safetensors; a folder's own if left out.
        licence: of the weights; what a folder states if left out.
        images: what is other than the source says, or all of it where it says nothing.

    Raises:
        SpecError, CutError, UnknownNameError, InterfaceError: such a network cannot be built or
            cut.
        WeightsError: the file is a pickle, or does not hold the network's weights.
        NameTakenError: a network has the name of a module.
        StoreError: the database or MLflow failed; importing again resumes from there.
    """
    found = find_source(source)
    path = weights or found.weights
    if path is None:
        raise SpecError(
            f"'{source}' names a network without its weights: give the safetensors file in "
            "--weights."
        )
    stated = licence or found.licence
    if not stated:
        raise SpecError(
            "The licence of the weights is not stated, and nobody may use them on a guess: give it "
            "in --licence, such as apache-2.0 or bsd-3-clause, or 'unknown' to say so on the card."
        )
    try:
        TypeAdapter(Licence).validate_python(stated)
    except ValidationError:
        raise SpecError(
            "The licence of the weights is no short text in one line: give its name in --licence, "
            "such as apache-2.0."
        ) from None
    preprocessing = _preprocessing(source, found.usual, images or Images())
    loaded = read_weights(path)
    what = [found.backbone.canonical_json(), loaded.sha256, list(ends), preprocessing.id, stated]
    key = hashlib.sha256(f"import {json.dumps(what)}".encode()).hexdigest()
    folder = registry.settings.work_dir / key
    with registry.backends.wait_for_claim(key).renewed(), trusting(import_paths(found.backbone)):
        try:
            shutil.rmtree(folder, ignore_errors=True)
            made = write_network(folder, found.backbone, loaded, ends, preprocessing, stated)
            assemble(made.modules)
            return _stored(registry, name, made)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _preprocessing(source: str, usual: Usual | None, said: Images) -> Preprocessing:
    size = said.size or (usual.image_size if usual else None)
    mean = said.mean or (usual.mean if usual else None)
    std = said.std or (usual.std if usual else None)
    if size is None or mean is None or std is None:
        needed = {"--image-size": size, "--mean": mean, "--std": std}
        raise SpecError(
            f"It is not known which images '{source}' was trained on: give "
            f"{', '.join(name for name, value in needed.items() if value is None)}, mean and "
            "standard deviation of each channel as shares of 255."
        )
    if len(mean) != len(std) or min(std) <= 0:
        raise SpecError(
            f"--mean has {len(mean)} values and --std {len(std)}: give one a "
            "channel in each, those of --std positive."
        )
    shape = (len(mean), *size)
    return Preprocessing(shape=shape, dtype="uint8", mean=mean, std=std)


def _stored(registry: Registry, name: str, made: ImportedNetwork) -> TakenIn:
    names = [f"{name}.hidden-{number}" for number in range(1, len(made.modules) + 1)]
    refuse_taken(registry.backends.database, modules=names)
    records, new = [], set()
    for each, module, parameters in zip(names, made.modules, made.parameters, strict=True):
        before = queries.by_id(registry.backends.database, module.id)
        if before is None or before.state != "READY":
            new.add(module.id)
        report = TrainReport(
            recipe_digest=module.spec_sha256,
            history=(),
            best_epoch=0,
            seconds=0.0,
            device="cpu",
            precision="float32",
            examples=0,
            parameters=parameters,
        )
        records.append(registry.modules.store(module.folder, name=each, report=report))
    return TakenIn(tuple(records), frozenset(new), made.left_out)
