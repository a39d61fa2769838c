"""Sets that a function of one's own returns."""

from __future__ import annotations

from itertools import chain, cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import to_tensor

from modkernel.data import RawData, load_dataset
from modkernel.errors import ClassError, DataError, SpecError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import places

X = np.random.default_rng(0).normal(size=(40, 5))
Y = np.arange(40) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8)


def good(spec: DatasetSpec) -> RawData:
    return RawData(IMAGES, Y, ("north", "east", "south", "west"), IMAGES[:8], list(Y[:8]))


def by_name(spec: DatasetSpec) -> RawData:
    return RawData(torch.from_numpy(X), [("b", "a")[i % 2] for i in Y], ("b", "a"))


def without_labels(spec: DatasetSpec) -> RawData:
    return RawData(X, None, ())


def outside(spec: DatasetSpec) -> RawData:
    return RawData(X, Y, ("a", "b", "c"))


def twice(spec: DatasetSpec) -> RawData:
    return RawData(X, Y, ("a", "b", "c", "a"))


def failing(spec: DatasetSpec) -> RawData:
    raise FileNotFoundError("there is no such disk")


def refusing(spec: DatasetSpec) -> RawData:
    raise DataError("The disk is in the drawer.")


def wrong_type(spec: DatasetSpec) -> int:
    return 3


NO_FUNCTION = 3


class Items:
    """A data set as torchvision's, of pictures or of what `transform` makes of them."""

    classes = ("north", "east", "south", "west")

    def __init__(self, transform=lambda image: image, count=40, labels=Y):
        self.transform, self.count, self.labels = transform, count, labels

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.transform(Image.fromarray(IMAGES[i])), self.labels[i]


class Plain:
    """Without `classes`; labels are text."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def pictures(spec: DatasetSpec):
    return Items()


def with_test(spec: DatasetSpec):
    return Items(to_tensor, labels=torch.from_numpy(Y)), Items(to_tensor, 12)


def folders(spec: DatasetSpec):
    """As two torchvision ImageFolders, of which the test folder has no class 'east'."""
    test = Plain(*((IMAGES[i], (0, None, 2, 1)[Y[i]]) for i in range(40) if Y[i] != 1))
    test.classes = ("north", "west", "south")
    return Items(), test


def strange_folder(spec: DatasetSpec):
    train, test = folders(spec)
    test.classes = ("north", "up", "south")
    return train, test


def outside_its_own(spec: DatasetSpec):
    train, test = folders(spec)
    test.classes = ("west", "north")
    return train, test


def three(spec: DatasetSpec):
    return {"train": Items(), "valid": Items(count=8), "test": Items(count=12)}


def rows(spec: DatasetSpec):
    return Plain(*((x, "ab"[y % 2]) for x, y in zip(X, Y, strict=True)))


def random_items(spec: DatasetSpec):
    return Items(lambda image: to_tensor(image) + torch.rand(()))


def sometimes_flipped(spec: DatasetSpec):
    """A flip whose first readings of items 0 and 1 are the same by chance."""
    flips = chain([False] * 6, cycle([True, False, False]))
    return Items(lambda image: ImageOps.mirror(image) if next(flips) else image)


def random_single(spec: DatasetSpec):
    flips = chain([False] * 6, cycle([True, False]))
    return Plain((X[0], 0), (X[1], 1)), Plain((FlipsRow(flips), 1))


class FlipsRow:
    """A row that is turned round whenever an iterator says so."""

    def __init__(self, flips):
        self.flips = flips

    def __array__(self, *_, **__):
        return X[0, ::-1] if next(self.flips) else X[0]


def with_gaps(spec: DatasetSpec):
    gaps = np.where(np.eye(40, 5) > 0, np.nan, X)
    return Plain(*((x, "ab"[y % 2]) for x, y in zip(gaps, Y, strict=True)))


def one_hot(spec: DatasetSpec):
    return Items(labels=np.eye(4)[Y])


def no_classes(spec: DatasetSpec):
    items = Items()
    items.classes = None
    return items


def odd_classes(spec: DatasetSpec):
    return RawData(X, Y, 3)


def no_length(spec: DatasetSpec):
    return Items(count="many")


def odd_sizes(spec: DatasetSpec):
    return Plain((X[0], 1), (X[0, :3], 0))


def no_pairs(spec: DatasetSpec):
    return Plain({"image": X[0]}, {"image": X[0]})


def empty(spec: DatasetSpec):
    return Plain()


def broken(spec: DatasetSpec):
    return Items(lambda image: 1 / 0)


def other_keys(spec: DatasetSpec):
    return {"training": Items()}


def ragged(spec: DatasetSpec):
    return RawData([[1.0], [1.0, 2.0]], [0, 1], ("a", "b"))


def partly(spec: DatasetSpec) -> RawData:
    return RawData(X, Y - 1, ("a", "b", "c"), x_val=X[:8], y_val=Y[:8] - 1)


def own(name: str, tmp_path: Path, **options):
    return load_dataset(DatasetSpec(name=f"{__name__}:{name}", **options), places(tmp_path))


def test_a_loader_of_ones_own(tmp_path):
    data = own("good", tmp_path, classes=("west", "east"))
    assert data.classes == ("west", "east")
    assert data.preprocessing.shape == (1, 6, 7)
    assert data.test.labels.tolist() == [1, 0, 1, 0]
    data = own("by_name", tmp_path)
    assert data.classes == ("b", "a")
    for name, label in zip(data.train.ids, data.train.labels.tolist(), strict=True):
        assert label == Y[int(name)] % 2
    assert own("without_labels", tmp_path).train.labels is None


@pytest.mark.parametrize("name", ["pictures", "with_test", "three"])
def test_data_sets_as_torchvision_s(tmp_path, name):
    data = own(name, tmp_path)
    assert data.classes == ("north", "east", "south", "west")
    assert data.preprocessing.shape == (1, 6, 7)
    assert len(data.test) == 12 or name == "pictures", "else a part is split off"
    assert ("range" in {finding.kind for finding in data.findings}) == (name == "with_test")
    for split in (data.train, data.validation, data.test):
        rows_at = [int(example.rpartition("/")[2]) for example in split.ids]
        assert split.labels.tolist() == Y[rows_at].tolist()
        assert np.array_equal(split.examples.tensor[:, 0].numpy(), IMAGES[rows_at])
    if name == "three":
        assert list(data.validation.ids) == [f"val/{i}" for i in range(8)]


def test_a_part_with_classes_of_its_own_is_labelled_by_their_names(tmp_path):
    data = own("folders", tmp_path)
    rows_at = [i for i in range(40) if Y[i] != 1]
    assert data.test.labels.tolist() == Y[rows_at].tolist()
    assert np.array_equal(data.test.examples.tensor[:, 0].numpy(), IMAGES[rows_at])


def test_a_data_set_of_rows_without_classes(tmp_path):
    data = own("rows", tmp_path)
    assert (data.classes, data.preprocessing.shape) == (("a", "b"), (5,))


def test_classes_that_are_none_are_numbers(tmp_path):
    assert own("no_classes", tmp_path).classes == ("0", "1", "2", "3")


def test_missing_values_are_the_same_at_each_reading(tmp_path):
    assert own("with_gaps", tmp_path).classes == ("a", "b")


def test_positions_below_0_are_no_label_if_the_spec_says_so(tmp_path):
    with pytest.raises(ClassError, match=r"label '-1'.*set dataset\.unlabelled: -1"):
        own("partly", tmp_path)
    data = own("partly", tmp_path, unlabelled=-1)
    assert data.classes == ("a", "b", "c")
    assert len(data.train) + len(data.test) == 30
    assert list(data.validation.ids) == [f"val/{i}" for i in (1, 2, 3, 5, 6, 7)]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("outside", ClassError, "label '3'"),
        ("twice", ClassError, "names a class twice"),
        ("strange_folder", ClassError, "label 'up', which is none of the 4 classes"),
        ("outside_its_own", ClassError, "Part 'test' of .* has the label 2, .* west, north"),
        ("failing", DataError, "failed with FileNotFoundError: there is no such disk"),
        ("refusing", DataError, r"^The disk is in the drawer\.$"),
        ("wrong_type", DataError, "returned int"),
        ("random_items", DataError, "differs from one reading to the next"),
        ("sometimes_flipped", DataError, "differs from one reading to the next"),
        ("random_single", DataError, "Item 0 of part 'test' .*differs from one reading"),
        ("one_hot", DataError, r"such as y\.argmax\(1\)"),
        ("odd_classes", DataError, "failed at `classes` with TypeError"),
        ("no_length", DataError, "failed at the length of part 'train' with TypeError"),
        ("odd_sizes", DataError, r"Item 1 of part 'train'.*shape \[3\].*item 0 \[5\]"),
        ("no_pairs", DataError, "gave dict at item 0 .*pairs"),
        ("empty", DataError, "empty data set for part 'train'"),
        ("broken", DataError, "failed at item 0 of part 'train' with ZeroDivisionError"),
        ("other_keys", DataError, "dict with 'training': its keys"),
        ("ragged", DataError, "x of .* is no array"),
        ("NO_FUNCTION", DataError, "is not a function"),
        ("absent", SpecError, "Cannot import"),
    ],
)
def test_loaders_that_go_wrong(tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        own(name, tmp_path)
