"""Suggest the examples to label: features of a stored module, and the files for the person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from modkernel.control import never_stop
from modkernel.data import TRAINING_PART, Dataset, blank_labels, load_dataset
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
from modkernel.training.labels_seen import hidden_saw, labels_told


class Suggestion(BaseModel):
    """What was suggested, and where it lies."""

    model_config = ConfigDict(frozen=True)

    file: str = Field(description="CSV file of ids with empty cells.")
    page: str = Field(description="HTML page to fill it in.")
    module: str = Field(description="Id of the module whose features decided.")
    dataset: str
    candidates: int = Field(description="Examples that were chosen from.")
    ids: tuple[str, ...] = Field(description="Best first: the first ones are a choice too.")
    labels_told: str = Field(description="How many labels a network on that module then saw.")


def suggest(
    registry: Registry,
    module: ModuleRecord,
    dataset: DatasetSpec | None,
    budget: int,
    output: Path,
    *,
    seed: int = 0,
    waiting: Callable[[], None] = lambda: None,
) -> Suggestion:
    """Choose examples of a data set's training part to label, and write the files for it.

    Labels that the data set has are neither used nor written.

    Args:
        registry: has the module.
        module: hidden module whose features decide.
        dataset: what to choose from; the module's own data if left out.
        budget: number of examples.
        output: CSV file; the page lies beside it, with the ending .html.
        seed: of the choice.
        waiting: called if the device is taken.

    Raises:
        DataError: the file is no .csv, is there already or cannot be written, or the data are
            missing or unfit, or some of them have labels and others have none.
        LabelBudgetError: a budget below 1 or above the number of examples.
        InterfaceError: the module does not take the data, or is no hidden module.
        SpecError: the module, or what is known of its data, names code that is not trusted.
    """
    check_is_hidden(module)
    page = _page_beside(output)
    dataset, info = datasets.for_chain(registry, module, dataset)
    where = registry.settings.places
    data = load_dataset(dataset, where, unlabelled=True)
    part = data.training_part()
    if data.unlabelled is not None:
        raise DataError(
            f"{len(data.unlabelled)} examples of data set '{data.name}' have no label beside "
            f"{len(part)} that have one, which alone would be suggested: name a set of the "
            "examples without labels, such as a folder of images that are in no class's folder."
        )
    check_budget(budget, len(part))
    phi = _features(registry, module, data, waiting)
    rows = suggest_labels(phi, budget, seed)
    ids = tuple(part.ids[row] for row in rows.tolist())
    chain = [record.spec for record in registry.modules.chain(module)]
    known = None if data.train.labels is None else len(data.train)
    saw = hidden_saw(chain, info.fingerprint, known)
    shown = label_images(where.located(dataset), part, rows, info.preprocessing.reading)
    _write(output, blank_labels(ids))
    _write(page, label_page(output.name, ids, shown, info.classes))
    return Suggestion(
        file=str(output),
        page=str(page),
        module=module.id,
        dataset=info.name,
        candidates=len(part),
        ids=ids,
        labels_told=labels_told(len(ids), saw),
    )


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
    """φ of the training part, [N, d], from the cache that training an output module uses too."""
    settings: Settings = registry.settings
    chain = [registry.modules.fetch(record) for record in registry.modules.chain(module)]
    examples = data.training_part().examples
    with device_slot(
        settings.slots_dir, settings.device, settings.cpu_slots, never_stop, waiting
    ) as device:
        arithmetic = choose_arithmetic(device)
        kernel = module.spec.interface.kernel
        with trusting(settings.trusted_packages):
            built = arithmetic.place(frozen_chain(chain))
        extractor = make_extractor(built, kernel, examples, 0, arithmetic)
        key = FeatureKey(
            module=module.id,
            data=data.fingerprint,
            split=TRAINING_PART,
            transform=extractor_name(extractor, kernel, 0, TRAINING_PART),
            dtype=arithmetic.name,
        )
        entry = CacheEntry(feature_cache(settings), key)
        features = compute_features(extractor, examples, arithmetic, entry=entry)
        return features.values.to(torch.float32)


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
