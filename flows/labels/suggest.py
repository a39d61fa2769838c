"""Suggest the examples to label: features of a stored module, and the files for the person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from modkernel.control import never_stop
from modkernel.data import (
    TRAINING_PART,
    DataPlaces,
    Dataset,
    Split,
    blank_labels,
    load_dataset,
)
from modkernel.data.label_file import read_named
from modkernel.errors import DataError
from modkernel.features.cache import FeatureKey
from modkernel.features.compute import CacheEntry, compute_features
from modkernel.features.extractor import extractor_name, frozen_chain, make_extractor
from modkernel.flows.labels.images import label_images
from modkernel.flows.labels.page import label_page
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_is_hidden
from modkernel.jobs.slots import device_slot
from modkernel.lookup import trusting
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.backends import feature_cache
from modkernel.reuse.label_choice import check_budget, suggest_labels
from modkernel.spec import DatasetSpec
from modkernel.system.files import write_new
from modkernel.system.precision import choose_arithmetic
from modkernel.training.inputs import ids_to_label
from modkernel.training.labels_seen import hidden_saw, labels_told


class Suggestion(BaseModel):
    """What was suggested, and where it lies."""

    model_config = ConfigDict(frozen=True)

    file: str = Field(description="CSV file of ids with empty cells.")
    page: str = Field(description="HTML page to fill it in.")
    module: str = Field(description="Id of the module whose features decided.")
    dataset: str
    candidates: int = Field(description="Examples that were chosen from.")
    labelled: int = Field(description="Examples that have a label already.")
    ids: tuple[str, ...] = Field(description="Best first: the first ones are a choice too.")
    labels_told: str = Field(description="How many labels a network on that module then saw.")


def suggest(
    registry: Registry,
    module: ModuleRecord,
    dataset: DatasetSpec | None,
    budget: int,
    output: Path,
    *,
    labels: str | None = None,
    seed: int = 0,
    waiting: Callable[[], None] = lambda: None,
) -> Suggestion:
    """Choose examples of a data set's training part to label, and write the files for it.

    Where some examples of the set have a label and others have none, one chooses from the latter,
    beside the former. Otherwise labels that the data set has are neither used nor written.

    Args:
        registry: has the module.
        module: hidden module whose features decide.
        dataset: what to choose from; the module's own data if left out.
        budget: number of examples.
        output: CSV file; the page lies beside it, with the ending .html.
        labels: CSV file of labels that there are already, or the name of data that it is: what is
            chosen is not in it, stands beside it, and is written together with it.
        seed: of the choice.
        waiting: called if the device is taken.

    Raises:
        DataError: the file is no .csv, is there already or cannot be written, or the data are
            missing or unfit, or the file of labels cannot be read or is wrong somewhere.
        ClassError: a label is none of the data set's classes.
        LabelBudgetError: a budget below 1 or above the number of examples to choose from.
        InterfaceError: the module does not take the data, or is no hidden module.
        SpecError: the module, or what is known of its data, names code that is not trusted.
    """
    check_is_hidden(module)
    page = _page_beside(output)
    dataset, info = datasets.for_chain(registry, module, dataset)
    where = registry.settings.places
    data = load_dataset(dataset, where, unlabelled=True)
    given = {} if labels is None else _given(data, dataset, labels, where)
    pool = _pool(data, given)
    candidates = pool.candidates.nonzero().flatten()
    check_budget(budget, len(candidates))
    phi = _features(registry, module, data, waiting)
    chosen = suggest_labels(phi[candidates], budget, seed, phi[pool.labelled])
    rows = candidates[chosen]
    ids = tuple(pool.ids[row] for row in rows.tolist())
    chain = [record.spec for record in registry.modules.chain(module)]
    known = None if data.train.labels is None else len(data.train)
    saw = hidden_saw(chain, info.fingerprint, known)
    shown = label_images(
        where.located(dataset), pool.part, rows - pool.first, info.preprocessing.reading
    )
    _write(output, blank_labels(ids, given))
    _write(page, label_page(output.name, ids, shown, info.classes, given))
    return Suggestion(
        file=str(output),
        page=str(page),
        module=module.id,
        dataset=info.name,
        candidates=len(candidates),
        labelled=int(pool.labelled.sum()),
        ids=ids,
        labels_told=labels_told(len(ids) + int(pool.labelled.sum()), saw),
    )


@dataclass(frozen=True)
class _Pool:
    """Examples that are looked at: of the training part, then those without a label.

    Attributes:
        ids: of all of them.
        candidates: bool [N], whether one may be chosen.
        labelled: bool [N], whether an output module would be trained on its label already.
        part: the split that one chooses from.
        first: position of its first example.
    """

    ids: Sequence[str]
    candidates: Tensor
    labelled: Tensor
    part: Split
    first: int


def _pool(data: Dataset, given: Mapping[str, str]) -> _Pool:
    part, aside, ids = data.training_part(), data.unlabelled, ids_to_label(data)
    labelled = torch.tensor([name in given for name in ids])
    if aside is None:
        return _Pool(ids, ~labelled, labelled, part, 0)
    labelled[: len(data.train)] = True
    candidates = ~labelled
    candidates[: len(part)] = False  # Labels of the validation split are not trained on.
    return _Pool(ids, candidates, labelled, aside, len(part))


def _given(data: Dataset, dataset: DatasetSpec, labels: str, where: DataPlaces) -> dict[str, str]:
    """The labels that a file gives, by id; it may lack classes, or have no label yet."""
    root = None if dataset.path is None else where.at(dataset.path)
    path = where.find(labels, "labels")
    return read_named(path, ids_to_label(data), data.classes, root, data.test.ids)[0]


def _page_beside(output: Path) -> Path:
    """Where the page of a CSV file goes, once neither is there.

    Raises:
        DataError: the file is no .csv, or one of the two is there already.
    """
    if output.suffix.lower() != ".csv":
        raise DataError(
            f"{output} is to be a CSV file, with a page beside it: name one that ends in .csv "
            "with --output."
        )
    page = output.with_suffix(".html")
    for path in (output, page):
        if path.exists():
            raise DataError(
                f"{path} is there already, perhaps with labels in it: remove it, or name another "
                "file with --output."
            )
    return page


def _features(
    registry: Registry, module: ModuleRecord, data: Dataset, waiting: Callable[[], None]
) -> Tensor:
    """φ of the training part and of the examples without a label, [N, d].

    The former are from the cache that training an output module uses too.
    """
    settings: Settings = registry.settings
    chain = [registry.modules.fetch(record) for record in registry.modules.chain(module)]
    parts = {TRAINING_PART: data.training_part().examples}
    if data.unlabelled is not None:
        parts[f"without a label {data.unlabelled_fingerprint}"] = data.unlabelled.examples
    with device_slot(
        settings.slots_dir, settings.device, settings.cpu_slots, never_stop, waiting
    ) as device:
        arithmetic = choose_arithmetic(device)
        kernel = module.spec.interface.kernel
        with trusting(settings.trusted_packages):
            built = arithmetic.place(frozen_chain(chain))
        extractor = make_extractor(built, kernel, parts[TRAINING_PART], 0, arithmetic)
        found = []
        for split, examples in parts.items():
            key = FeatureKey(
                module=module.id,
                data=data.fingerprint,
                split=split,
                transform=extractor_name(extractor, kernel, 0, TRAINING_PART),
                dtype=arithmetic.name,
            )
            entry = CacheEntry(feature_cache(settings), key)
            features = compute_features(extractor, examples, arithmetic, entry=entry)
            found.append(features.values.to(torch.float32))
        return torch.cat(found)


def _write(path: Path, text: str) -> None:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise DataError(
            "The name of an image to be labelled is not UTF-8, so it cannot be written to "
            f"{path}: rename the image."
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_new(path, content)  # It keeps what another command has written meanwhile.
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror}. Name another file with --output."
        ) from None
