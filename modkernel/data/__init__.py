"""Data sets: loaded, split, fingerprinted, and placed where training can reach them fast."""

from modkernel.data.augment import augment
from modkernel.data.contents import ExampleDigests
from modkernel.data.dataset import (
    TRAINING_PART,
    VALIDATION_PART,
    DataPlaces,
    Dataset,
    DatasetInfo,
    RawData,
    Split,
)
from modkernel.data.findings import Finding
from modkernel.data.images import read_images
from modkernel.data.label_file import LabelList, blank_labels, read_labels
from modkernel.data.load import (
    DATASETS,
    dataset_key,
    describe_dataset,
    example_digests,
    load_dataset,
)
from modkernel.data.pair_file import PairList, read_pairs
from modkernel.data.residency import place_dataset
from modkernel.data.rows import read_rows
from modkernel.data.sources import ExampleSource, RawExamples, Resident, Streamed

__all__ = [
    "DATASETS",
    "TRAINING_PART",
    "VALIDATION_PART",
    "DataPlaces",
    "Dataset",
    "DatasetInfo",
    "ExampleDigests",
    "ExampleSource",
    "Finding",
    "LabelList",
    "PairList",
    "RawData",
    "RawExamples",
    "Resident",
    "Split",
    "Streamed",
    "augment",
    "blank_labels",
    "dataset_key",
    "describe_dataset",
    "example_digests",
    "load_dataset",
    "place_dataset",
    "read_images",
    "read_labels",
    "read_pairs",
    "read_rows",
]
