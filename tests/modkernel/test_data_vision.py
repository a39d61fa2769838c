from __future__ import annotations

import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch

from modkernel.data import describe_dataset, load_dataset
from modkernel.errors import DataError, UnknownNameError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import fashion_mnist, places

datasets = pytest.importorskip("torchvision.datasets")


def test_digits_are_bundled_and_use_the_whole_range(tmp_path):
    data = load_dataset(DatasetSpec(), places(tmp_path))
    assert data.classes == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(data.test)) == (1319, 135, 343)
    images = data.train.examples.batch(torch.arange(len(data.train)))
    assert images.shape == (1319, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert sorted(images.unique().tolist()) == [round(i * 255 / 16) for i in range(17)]
    assert len(set(data.train.ids) | set(data.validation.ids) | set(data.test.ids)) == 1797


def test_digits_are_labelled_as_scikit_learn_has_them(tmp_path):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    data = load_dataset(DatasetSpec(), places(tmp_path))
    rows = [int(name) for name in data.test.ids]
    assert data.test.labels.tolist() == labels[rows].tolist()
    images = data.test.examples.batch(torch.arange(len(rows))).flatten(1).double() * 16 / 255
    assert (images.numpy() - pixels[rows]).__abs__().max() < 0.05


def test_fashion_mnist_is_read_from_the_data_root(tmp_path):
    where = places(tmp_path)
    fashion_mnist(where.root)
    data = load_dataset(DatasetSpec(name="fashion_mnist"), where)
    expected = datasets.FashionMNIST(where.root, train=True)
    assert data.classes == tuple(expected.classes)
    assert len(data.training_part()) == 60
    assert len(data.validation) > 0
    for split in (data.train, data.validation):
        rows = [int(name) for name in split.ids]
        assert torch.equal(split.labels, expected.targets[rows])
        images = split.examples.batch(torch.arange(len(rows)))
        assert torch.equal(images, expected.data[rows][:, None])
    assert list(data.test.ids) == [f"test/{i}" for i in range(20)]


def fake(classes: list[str] | None, channels_last: bool, target: str):
    """A set as torchvision would give it, without its files."""

    class Fake:
        def __init__(self, root, download, train=True, split="train"):
            n = 100 if train and split == "train" else 20
            shape = (n, 8, 8, 3) if channels_last else (n, 3, 8, 8)
            self.data = np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8)
            setattr(self, target, list(np.arange(n) % 10))
            if classes:
                self.classes = classes

    return Fake


@pytest.mark.parametrize(
    ("name", "type_name", "classes", "channels_last", "target"),
    [
        ("cifar10", "CIFAR10", [f"c{i}" for i in range(10)], True, "targets"),
        ("cifar100", "CIFAR100", [f"c{i}" for i in range(10)], True, "targets"),
        ("svhn", "SVHN", None, False, "labels"),
        ("mnist", "MNIST", [f"{i} - name" for i in range(10)], True, "targets"),
    ],
)
def test_colour_sets(tmp_path, monkeypatch, name, type_name, classes, channels_last, target):
    monkeypatch.setattr(datasets, type_name, fake(classes, channels_last, target))
    data = load_dataset(DatasetSpec(name=name), places(tmp_path))
    digits = name in ("svhn", "mnist")
    assert data.classes == (tuple("0123456789") if digits else tuple(classes))
    assert data.train.examples.shape == (3, 8, 8)
    assert (len(data.training_part()), len(data.test)) == (100, 20)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"])
def test_a_missing_set_says_where_it_was_looked_for(tmp_path, name):
    where = places(tmp_path)
    for call in (load_dataset, describe_dataset):
        with pytest.raises(DataError, match="downloading is switched off") as caught:
            call(DatasetSpec(name=name), where)
        assert str(where.root) in str(caught.value)
    assert not where.root.exists()


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("a\nb"), OSError(5)])
def test_a_download_that_fails(tmp_path, monkeypatch, error):
    def absent(root, download, **_):
        raise error if download else RuntimeError("Dataset not found.")

    monkeypatch.setattr(datasets, "MNIST", absent)
    with pytest.raises(DataError, match="downloading it failed") as caught:
        load_dataset(DatasetSpec(name="mnist"), places(tmp_path, download=True))
    assert "\n" not in str(caught.value)


def test_a_set_is_downloaded_once_and_then_described_without_reading_it(tmp_path, monkeypatch):
    where = places(tmp_path, download=True)
    calls = []
    real = datasets.FashionMNIST

    def fetching(root, download, **options):
        calls.append(download)
        if download:
            fashion_mnist(where.root)
        return real(root, download=False, **options)

    monkeypatch.setattr(datasets, "FashionMNIST", fetching)
    spec = DatasetSpec(name="fashion_mnist")
    first = describe_dataset(spec, where)
    assert calls == [False, True, True]
    assert describe_dataset(spec, where) == first
    assert len(calls) == 3
    fashion_mnist(where.root, n_train=70)
    assert describe_dataset(spec, where).n_train > first.n_train


def test_svhn_without_scipy(tmp_path, monkeypatch):
    def needs_scipy(root, **_):
        import scipy.io

        raise AssertionError(scipy.io)

    monkeypatch.setattr(datasets, "SVHN", needs_scipy)
    for module in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "scipy", None)
    for download in (False, True):
        with pytest.raises(DataError, match=r"needs the package 'scipy.*pip install"):
            load_dataset(DatasetSpec(name="svhn"), places(tmp_path, download))


def test_damaged_files(tmp_path):
    where = places(tmp_path)
    fashion_mnist(where.root)
    images = where.root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:1000])
    with pytest.raises(DataError, match="fashion_mnist"):
        load_dataset(DatasetSpec(name="fashion_mnist"), where)


def test_files_pickled_by_an_old_torchvision_are_not_read(tmp_path):
    where = places(tmp_path)
    old = where.root / "MNIST" / "processed"
    old.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (old / name).write_bytes(b"pickled")
    with pytest.raises(DataError, match="remove that folder"):
        load_dataset(DatasetSpec(name="mnist"), where)


def test_unknown_name(tmp_path):
    with pytest.raises(UnknownNameError, match="use one of digits, mnist, fashion_mnist"):
        load_dataset(DatasetSpec(name="imagenet"), places(tmp_path))
