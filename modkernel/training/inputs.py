"""What a loaded data set gives to train on: pairs for hidden modules, labels for an output one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modkernel.data import (
    TRAINING_PART,
    VALIDATION_PART,
    DataPlaces,
    Dataset,
    LabelList,
    PairList,
    read_labels,
    read_pairs,
)
from modkernel.data.label_budget import check_spread_output
from modkernel.data.sources import ExampleSource, join_sources
from modkernel.errors import DataError, PairError
from modkernel.pairs.source import PairSource
from modkernel.plan import facts
from modkernel.spec import DatasetFacts, DatasetSpec, OutputSpec, pairs_from
from modkernel.training.output import GivenLabels, LabelledData
from modkernel.training.pair_data import PairData


def pair_data(
    data: Dataset, spec: DatasetSpec, pairs: str | None, where: DataPlaces
) -> tuple[PairData, PairData, DatasetFacts]:
    """Training and validation pairs from whatever `pairs` names, and what modules' specs say of it.

    Args:
        data: the loaded data set; with its unlabelled examples where views are compared.
        spec: what it was loaded by.
        pairs: as `NetworkSpec.pairs`.
        where: the files are.

    Raises:
        DataError, PairError: there are no such pairs; see `class_pairs`, `view_pairs` and
            `listed_pairs`.
    """
    sources, fingerprint = pairs_from(pairs), None
    if sources.views:
        train, validation, fingerprint = view_pairs(data, spec, pairs, where)
    elif sources.file is not None:
        train, validation, fingerprint = listed_pairs(data, spec, sources.file, where)
    else:
        train, validation = class_pairs(data)
    extra = data.unlabelled_fingerprint if sources.views else None
    known = facts(data.info(), fingerprint, pairs=pairs, unlabelled_fingerprint=extra)
    return train, validation, known


def class_pairs(data: Dataset) -> tuple[PairData, PairData]:
    """Training and validation pairs by the class labels, whose identities end here.

    Where a class has too few validation examples, training examples are validated on as well.

    Raises:
        DataError: the data set has no class labels.
    """
    train, validation = data.train, data.validation_part()
    if train.labels is None or validation.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels: set 'pairs: views', which needs none, or "
            "give a file of pairs in 'pairs'."
        )
    return (
        PairData(train.examples, PairSource.from_classes(train.labels), "train"),
        PairData(validation.examples, PairSource.from_classes(validation.labels), VALIDATION_PART),
    )


def given_pairs(data: Dataset, spec: DatasetSpec, pairs: str, where: DataPlaces) -> PairList:
    """The pairs that a file gives of a data set's training part.

    Args:
        data: the loaded data set.
        spec: what it was loaded by.
        pairs: the CSV or Parquet file, or the name of data that it is.
        where: the files are.

    Raises:
        DataError: there is no such file, or see `read_pairs`.
    """
    root = None if spec.path is None else where.at(spec.path)
    part = data.training_part()
    return read_pairs(where.find(pairs, "pairs"), part.ids, root, data.test.ids)


def given_labels(data: Dataset, spec: DatasetSpec, labels: str, where: DataPlaces) -> LabelList:
    """The labels that a file gives of a data set's training part; see `given_pairs`.

    Where the data set was loaded with examples without a label, the file may name these as well,
    and labels of the training split count beside those of the file; so they do where `spec` says
    what stands for no label and nothing has it any more. Rows are positions in the training part
    and, from its length on, in those without a label. The fingerprint holds then what these
    examples are: that of the data set, which tells its other ids apart, does not know them.

    Raises:
        DataError, ClassError: there is no such file, or see `read_labels`.
    """
    root = None if spec.path is None else where.at(spec.path)
    ids, path = ids_to_label(data), where.find(labels, "labels")
    tested, aside = data.test.ids, data.unlabelled
    if aside is None and spec.unlabelled is None:
        return read_labels(path, ids, data.classes, root, tested)
    own = _padded(data.train.labels, len(ids))
    found = read_labels(path, ids, data.classes, root, tested, own)
    contents: list[str] = []
    if aside is not None:
        named = found.rows[found.rows >= len(ids) - len(aside)] - (len(ids) - len(aside))
        assert aside.digests is not None  # As of all examples that are loaded.
        contents = aside.digests[named].tolist()
    fingerprint = hashlib.sha256(json.dumps([found.fingerprint, *contents]).encode()).hexdigest()
    return replace(found, fingerprint=fingerprint)


def ids_to_label(data: Dataset) -> Sequence[str]:
    """Ids that a file of labels may name: of the training part, and of those without a label."""
    ids = data.training_part().ids
    return ids if data.unlabelled is None else [*ids, *data.unlabelled.ids]


def listed_pairs(
    data: Dataset, spec: DatasetSpec, pairs: str, where: DataPlaces
) -> tuple[PairData, PairData, str]:
    """Training and validation pairs of a file, and the file's fingerprint.

    A list of pairs is over the training and validation examples, and is split itself.

    Args:
        data: the loaded data set.
        spec: what it was loaded by: the share of validation and the seed of the split.
        pairs: the CSV or Parquet file, or the name of data that it is.
        where: the files are.

    Raises:
        DataError, PairError: see `given_pairs`.
    """
    part = data.training_part()
    table = given_pairs(data, spec, pairs, where)
    source = PairSource.from_pairs(len(part), table.i, table.j, table.same)
    train, validation = source.split(spec.validation_fraction, spec.split_seed)
    return (
        PairData(part.examples, train, TRAINING_PART),
        PairData(part.examples, validation, TRAINING_PART),
        table.fingerprint,
    )


def view_pairs(
    data: Dataset, spec: DatasetSpec, pairs: str | None, where: DataPlaces
) -> tuple[PairData, PairData, str | None]:
    """Pairs of random views of the training and of the validation examples.

    Training examples without a label take part as well, where the data set was loaded with them.
    Of views alone, no label has any part in this. Beside labels, training examples are validated on
    as well where a class has too few validation examples, as in `class_pairs`. Of a file, the pairs
    of two training examples are trained on and those of two validation examples validated on.

    Args:
        data: the loaded data set.
        spec: what it was loaded by.
        pairs: as `NetworkSpec.pairs`, with views.
        where: the files are.

    Returns:
        Both parts, and the fingerprint of the file of pairs, if there is one.

    Raises:
        DataError: there is no such file, or see `read_pairs`; labels are asked for and there are
            none.
        PairError: no listed pair is of two training examples.
    """
    sources = pairs_from(pairs)
    if sources.labels and data.train.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels: set 'pairs: views', which needs none."
        )
    table = None if sources.file is None else given_pairs(data, spec, sources.file, where)
    examples, first = data.train.examples, len(data.train)
    if data.unlabelled is not None:
        examples = join_sources(examples, data.unlabelled.examples)
    listed = _listed(table, 0, first)
    if table is not None and listed is None:
        raise PairError(
            f"None of the pairs in {sources.file} is of two examples that are trained on: list "
            "more, or set a smaller dataset.validation_fraction."
        )
    labels = _padded(data.train.labels, len(examples)) if sources.labels else None
    train = PairData(examples, PairSource.from_views(len(examples), labels, listed))
    validated = data.validation_part() if sources.labels else data.validation
    validation = PairData(
        validated.examples,
        PairSource.from_views(
            len(validated),
            validated.labels if sources.labels else None,
            _listed(table, first, first + len(data.validation)),
        ),
    )
    return train, validation, None if table is None else table.fingerprint


def _padded(labels: Tensor | None, count: int) -> Tensor | None:
    """Labels of the first examples of so many; -1 for the others."""
    if labels is None:
        return None
    return torch.cat((labels, labels.new_full((count - len(labels),), -1)))


def _listed(table: PairList | None, first: int, end: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The listed pairs of two examples from `first` to `end`, counted from there."""
    if table is None:
        return None
    rows = (torch.minimum(table.i, table.j) >= first) & (torch.maximum(table.i, table.j) < end)
    if not bool(rows.any()):
        return None
    return table.i[rows] - first, table.j[rows] - first, table.same[rows]


def taking_part(data: Dataset, output: OutputSpec, given: int | None) -> str | None:
    """Fingerprint of a data set's examples without a label, where an output module may take them.

    It does where labels are spread, and where a file gives labels, which may be theirs. None where
    there are none of them: examples whose labels are not used are known by the set's own
    fingerprint.

    Args:
        data: loaded with its unlabelled examples.
        output: how the output module is trained.
        given: labels by a file, if it is trained on one, with those of the set that count beside.

    Raises:
        SpecError: labels are to be spread, and there is no example without one, or too many have
            one.
    """
    if output.spread_labels:
        unlabelled = 0 if data.unlabelled is None else len(data.unlabelled)
        check_spread_output(output, data.info(), unlabelled, given)
    elif given is None:
        return None
    return data.unlabelled_fingerprint


def unlabelled_examples(data: Dataset) -> ExampleSource | None:
    """The training examples without a label that a data set was loaded with; none: of none."""
    return None if data.unlabelled is None else data.unlabelled.examples


def given_by_hand(data: Dataset, found: LabelList) -> GivenLabels:
    """What an output module is trained on by a file of labels, as `given_labels` has read it."""
    known = None if data.unlabelled is None or data.train.labels is None else len(data.train)
    return GivenLabels(found.rows, found.labels, known)


def labelled_data(
    data: Dataset, given: GivenLabels | None = None, spread: bool = False
) -> tuple[LabelledData, LabelledData | None, LabelledData]:
    """Training examples and labels, those of the test part where there are any, and validation.

    Args:
        data: the loaded data set.
        given: labels given by hand, which may be of the validation part too, and of examples
            without a label: then the training examples are those of both parts and, without any
            label but the given ones, those without a label.
        spread: whether they are spread over the other examples, so that all are trained on.
    """
    test = data.test.labels if len(data.test) else None
    validation, train = data.validation_part(), data.train
    # Where the examples of the validation part are in the training part; the last are lent.
    rows = torch.cat((torch.arange(len(train), len(train) + len(data.validation)), data.borrowed))
    used = data.borrowed if given is None else torch.cat((given.rows, data.borrowed))
    used = rows if spread and given is not None else used
    trained = torch.isin(rows, used).nonzero()[:, 0]
    learnt = LabelledData(train.examples, train.labels, "train")
    if given is not None:
        part = data.training_part()
        learnt = LabelledData(part.examples, part.labels, TRAINING_PART)
        if data.unlabelled is not None:
            examples = join_sources(part.examples, data.unlabelled.examples)
            name = f"{TRAINING_PART}, and without a label {data.unlabelled_fingerprint}"
            learnt = LabelledData(examples, None, name)
    return (
        learnt,
        None if test is None else LabelledData(data.test.examples, test, "test"),
        LabelledData(validation.examples, validation.labels, trained=trained),
    )
