"""Data sets: loaded, split, fingerprinted, and placed where training can reach them fast."""

from typing import TYPE_CHECKING

from modkernel.system.lazy import lazy_names

if TYPE_CHECKING:
    # Imported when first used: what lists a folder's files alone does not wait for torch.
    from modkernel.data.contents import ExampleDigests as ExampleDigests
    from modkernel.data.dataset import TRAINING_PART as TRAINING_PART
    from modkernel.data.dataset import VALIDATION_PART as VALIDATION_PART
    from modkernel.data.dataset import Dataset as Dataset
    from modkernel.data.dataset import DatasetInfo as DatasetInfo
    from modkernel.data.dataset import RawData as RawData
    from modkernel.data.dataset import Split as Split
    from modkernel.data.findings import Finding as Finding
    from modkernel.data.images import read_images as read_images
    from modkernel.data.label_file import LabelList as LabelList
    from modkernel.data.label_file import blank_labels as blank_labels
    from modkernel.data.label_file import read_labels as read_labels
    from modkernel.data.load import DATASETS as DATASETS
    from modkernel.data.load import describe_dataset as describe_dataset
    from modkernel.data.load import example_digests as example_digests
    from modkernel.data.load import load_dataset as load_dataset
    from modkernel.data.pair_file import PairList as PairList
    from modkernel.data.pair_file import read_pairs as read_pairs
    from modkernel.data.places import DataPlaces as DataPlaces
    from modkernel.data.residency import place_dataset as place_dataset
    from modkernel.data.rows import read_rows as read_rows
    from modkernel.data.sources import ExampleSource as ExampleSource
    from modkernel.data.sources import RawExamples as RawExamples
    from modkernel.data.sources import Resident as Resident
    from modkernel.data.sources import Streamed as Streamed

__all__, __getattr__ = lazy_names(__name__, __file__)
