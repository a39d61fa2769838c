"""Data sets of flows: describe them, remember which one a module was trained on, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from modkernel.data import (
    DatasetInfo,
    LabelList,
    describe_dataset,
    load_dataset,
)
from modkernel.data.class_names import listed
from modkernel.data.label_budget import check_spread_output
from modkernel.errors import DataError, InterfaceError, SpecError
from modkernel.flows.runtime.events import Note, emit
from modkernel.kernels import make_kernel
from modkernel.lookup import check_trusted, is_import_path, trusting
from modkernel.modules.stored import check_spec_trusted
from modkernel.objectives.table import make_objective
from modkernel.plan import facts
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.tracking.markdown import plain
from modkernel.spec import DatasetFacts, DatasetSpec, HiddenSpec, OutputSpec, pairs_from
from modkernel.training.inputs import given_labels, given_pairs, pair_data, taking_part


def describe(registry: Registry, dataset: DatasetSpec) -> DatasetInfo:
    """What is in a data set, with a note for each thing that was noticed about it.

    It is fetched if that is allowed and needed. A flow calls this once for its data, so that each
    thing is told once a run; of parts of them, it asks for `info_of`.

    Raises:
        DataError: it is missing or unfit.
    """
    info = info_of(registry, dataset)
    for finding in info.findings:
        note(finding.text)
    if info.findings and FlowRunContext.get() is not None:
        lines = (f"- **{finding.kind}**: {plain(finding.text)}" for finding in info.findings)
        create_markdown_artifact(
            "\n".join((f"# Noticed about {plain(info.name)}", "", *lines)),
            key="data-findings",
            description=f"Data set {info.name}",
        )
    return info


def info_of(registry: Registry, dataset: DatasetSpec) -> DatasetInfo:
    """What is in a data set, without a word about it.

    Raises:
        DataError: it is missing or unfit.
    """
    return describe_dataset(dataset, registry.settings.places)


def check_pairs(
    registry: Registry,
    dataset: DatasetSpec,
    info: DatasetInfo,
    pairs: str | None,
    hidden: Sequence[HiddenSpec],
) -> DatasetFacts:
    """Check that pairs can train hidden modules; returns what the modules' specs say of the data.

    Args:
        registry: knows where data are.
        dataset: that the pairs are of.
        info: the same.
        pairs: as `NetworkSpec.pairs`.
        hidden: the modules, with their kernels.

    Raises:
        DataError: a file cannot be read, or names an example that the data set does not have.
        PairError: no same or no different pair, in training or validation.
    """
    if pairs is None:
        return facts(info)
    where, sources = registry.settings.places, pairs_from(pairs)
    data = load_dataset(dataset, where, unlabelled=sources.views)
    if sources.file is not None:
        table = given_pairs(data, dataset, sources.file, where)
        if table.left_out:
            note(
                f"{table.left_out} of {table.left_out + len(table.same)} pairs name an example of "
                "the test part and are left out."
            )
        apart = (table.i < len(data.train)) != (table.j < len(data.train))
        if sources.views and bool(apart.any()):
            note(
                f"{int(apart.sum())} of {len(table.same)} pairs are of an example that is trained "
                "on and one that is validated on, and are left out: a smaller "
                "dataset.validation_fraction leaves out fewer."
            )
    train, validation, known = pair_data(data, dataset, pairs, where)
    objectives = [make_objective(spec.objective, make_kernel(spec.kernel)) for spec in hidden]
    for half in (train, validation):
        half.pairs.check(any(objective.needs_same for objective in objectives))
    return known


def check_labels(registry: Registry, dataset: DatasetSpec, labels: str) -> LabelList:
    """Check that a file of labels can train an output module, and read it.

    Raises:
        DataError: it cannot be read, or is wrong somewhere.
        ClassError: its classes are not those of the data set, or it lacks some.
    """
    where = registry.settings.places
    data = load_dataset(dataset, where, unlabelled=True)
    found = given_labels(data, dataset, labels, where)
    if not data.classes:
        counts = zip(found.labels.bincount().tolist(), found.classes, strict=True)
        # What is written wrong somewhere is rare.
        named = [f"'{name}' ({count})" for count, name in sorted(counts)]
        note(
            f"Data set '{data.name}' has no classes of its own; {labels} gives labels of "
            f"{len(named)}: {listed(named)}."
        )
    filled = len(found.rows) - found.own
    if found.empty:
        note(
            f"{found.empty} of {found.empty + filled} examples in {labels} have no label "
            f"yet: the {filled} that have one are used."
        )
    if data.classes and data.unlabelled is None and not found.own:
        note(
            f"Every example of data set '{data.name}' has a label: the {filled} of {labels} alone "
            "train the output module."
        )
    if found.own:
        note(
            f"{filled} label{'s' * (filled != 1)} of {labels} and {found.own} that data set "
            f"'{data.name}' has itself train the output module."
        )
    return found


def check_unlabelled(
    registry: Registry,
    dataset: DatasetSpec,
    info: DatasetInfo,
    output: OutputSpec,
    given: LabelList | None = None,
) -> str | None:
    """Check that labels can be spread where that is asked for.

    Returns:
        The fingerprint of the set's examples without a label, where they may take part; see
        `taking_part`.

    Raises:
        SpecError: there is no example without a label, or too many have one.
    """
    if not output.spread_labels and given is None:
        return None
    labels = None if given is None else len(given.rows)
    if not any(finding.kind == "unlabelled" for finding in info.findings):
        if output.spread_labels:
            check_spread_output(output, info, 0, labels)
        return None
    data = load_dataset(dataset, registry.settings.places, unlabelled=True)
    return taking_part(data, output, labels)


def recall(registry: Registry, record: ModuleRecord, at: str | None = None) -> DatasetSpec:
    """The data set that a stored module was trained on.

    Args:
        registry: has the module.
        record: the module.
        at: where the data are now, if they were moved.

    Raises:
        SpecError: it was not trained by a flow, or the data set is a loader of a package that is
            not trusted.
        DataError: nothing is where its files were.
    """
    dataset = registry.modules.dataset(record)
    if dataset is None:
        raise SpecError(
            f"It is not known where the data of module {record.short_id} ({record.name}) is: "
            "give 'dataset'."
        )
    with trusting(registry.settings.trusted_packages):
        check_trusted(
            dataset.name, f"Module {record.short_id} ({record.name}) was trained on data set"
        )
    if at is not None:
        dataset = dataset.changed(path=at)
    elif has_moved(dataset):
        option = "" if dataset.name == "image_folder" else f"--dataset {dataset.name} "
        raise DataError(
            f"The data that module {record.short_id} ({record.name}) was trained on is no longer "
            f"at {dataset.path}: move it back, or say where it is now ({option}--data PATH, or a "
            "spec's dataset.path); with the same settings, the same data is known as such anywhere."
        )
    if dataset.name != "image_folder":
        return dataset
    # Images that were added since would have others read in another way.
    return dataset.changed(**record.spec.preprocessing.reading_fields())


def has_moved(dataset: DatasetSpec) -> bool:
    """Whether nothing is any more where the files of a data set were.

    A loader of your own may take any path. Of a name it is told where it is looked up: it may have
    another place on every machine.
    """
    path = dataset.path
    if path is None or is_import_path(dataset.name):
        return False
    return Path(path).is_absolute() and not Path(path).exists()


def for_chain(
    registry: Registry, top: ModuleRecord, dataset: DatasetSpec | None
) -> tuple[DatasetSpec, DatasetInfo]:
    """The data to train on above a stored module, by default what it was trained on itself.

    Raises:
        SpecError: no data set is given, and it is not known where the module's own is, or it or
            the chain names code that is not trusted.
        DataError: the data is missing or unfit.
        InterfaceError: the module's chain does not take it.
    """
    check_chain_trusted(registry, top)
    dataset = dataset or recall(registry, top)
    info = describe(registry, dataset)
    check_fits(info, top)
    return dataset, info


def for_join(
    registry: Registry, tops: Sequence[ModuleRecord], dataset: DatasetSpec | None
) -> tuple[DatasetSpec, DatasetInfo]:
    """The data to train on above stored modules, by default what the first was trained on itself.

    Raises:
        SpecError, DataError, InterfaceError: as of `for_chain`, of each.
    """
    dataset, info = for_chain(registry, tops[0], dataset)
    for top in tops[1:]:
        check_chain_trusted(registry, top)
        check_fits(info, top)
    return dataset, info


def check_chain_trusted(registry: Registry, top: ModuleRecord) -> None:
    """Check that the code that a stored module and those under it name may be run.

    Raises:
        SpecError: the code of one is of a package that is not trusted.
    """
    with trusting(registry.settings.trusted_packages):
        for record in registry.modules.chain(top):
            check_spec_trusted(record.id, record.spec)


def check_fits(info: DatasetInfo, record: ModuleRecord) -> None:
    """Check that a stored module's chain takes the examples of a data set.

    That image files are read in another way than the module's were is noted.

    Raises:
        InterfaceError: another shape, number of channels or type.
    """
    found, wanted = info.preprocessing, record.spec.preprocessing
    if (found.shape, found.dtype) == (wanted.shape, wanted.dtype):
        _check_columns(info, record)
        if found.reading != wanted.reading and wanted.reading_fields():
            note(
                f"Image files of '{info.name}' are read in another way than those that module "
                f"{record.short_id} ({record.name}) was trained on: set "
                f"{_settings(wanted.reading_fields())} to read them as it was."
            )
        return
    remedy = "choose another module or data set"
    if wanted.image_fields() and found.dtype == wanted.dtype:
        remedy = f"set {_settings(wanted.image_fields())}, or {remedy}"
    raise InterfaceError(
        f"Module {record.short_id} ({record.name}) stands on examples of shape "
        f"{list(wanted.shape)}, {wanted.dtype}, but those of data set '{info.name}' have shape "
        f"{list(found.shape)}, {found.dtype}: {remedy}."
    )


def _settings(fields: Mapping[str, Any]) -> str:
    """Fields of a data set as one writes them."""
    values = {
        name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
    }
    return " and ".join(f"dataset.{name}: {value}" for name, value in values.items())


def _check_columns(info: DatasetInfo, record: ModuleRecord) -> None:
    found, wanted = info.preprocessing.columns, record.spec.preprocessing.columns
    if found is None or wanted is None or found == wanted:
        return
    place = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if len(set(pair)) > 1)
    raise InterfaceError(
        f"Module {record.short_id} ({record.name}) stands on a table whose column {place + 1} is "
        f"'{wanted[place]}', and that of data set '{info.name}' is '{found[place]}': give the same "
        "columns, with the same categories, in the same order."
    )


def note(text: str) -> None:
    """Tell a person something: in the run's log and in the terminal."""
    try:
        logger = get_run_logger()
    except MissingContextError:  # 'labels suggest' is no flow.
        logger = get_logger()
    logger.warning(text)
    emit(Note(text))
