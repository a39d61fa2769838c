"""What a loaded data set gives to train on: pairs for hidden modules, labels for an output one."""

from __future__ import annotations

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
from modkernel.errors import DataError
from modkernel.pairs.source import PairSource
from modkernel.spec import DatasetSpec
from modkernel.training.hidden import PairData
from modkernel.training.output import LabelledData


def class_pairs(data: Dataset) -> tuple[PairData, PairData]:
    """Training and validation pairs by the class labels, whose identities end here.

    Where a class has too few validation examples, training examples are validated on as well.

    Raises:
        DataError: the data set has no class labels.
    """
    train, validation = data.train, data.validation_part()
    if train.labels is None or validation.labels is None:
        raise DataError(
            f"Data set '{data.name}' has no class labels: give a file of pairs in 'pairs'."
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

    Raises:
        DataError, ClassError: there is no such file, or see `read_labels`.
    """
    root = None if spec.path is None else where.at(spec.path)
    part = data.training_part()
    return read_labels(where.find(labels, "labels"), part.ids, data.classes, root, data.test.ids)


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


def labelled_data(data: Dataset) -> tuple[LabelledData, LabelledData | None, LabelledData]:
    """Training examples and labels, those of the test part where there are any, and validation."""
    test = data.test.labels if len(data.test) else None
    validation = data.validation_part()
    return (
        LabelledData(data.train.examples, data.train.labels, "train"),
        None if test is None else LabelledData(data.test.examples, test, "test"),
        LabelledData(validation.examples, validation.labels),
    )
