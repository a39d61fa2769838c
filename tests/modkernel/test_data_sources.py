"""Resident and streamed sources give the same, and what is measured on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from modkernel.data import (
    Dataset,
    Resident,
    Split,
    Streamed,
    load_dataset,
    place_dataset,
)
from modkernel.data.sources import Joined, join_sources
from modkernel.data.statistics import preprocessing_of
from modkernel.errors import DataError, ImageError
from modkernel.system import memory
from modkernel.system.memory import free_memory
from tests.modkernel.helpers.data_made import all_pixels, folder_spec, image_folder, picture, places


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "set", {"train/a": 12, "train/b": 11, "test/a": 4, "test/b": 3})


ORDER = [torch.tensor([3, 1, 1, 0]), torch.tensor([5]), torch.arange(10)]


@pytest.mark.parametrize("options", [{}, {"image_size": 5, "channels": 1}])
def test_streamed_and_resident_give_the_same(root, tmp_path, options):
    spec = folder_spec(root, **options)
    resident = load_dataset(spec, places(tmp_path / "a"))
    size = all_pixels(resident).numel()
    assert isinstance(load_dataset(spec, places(tmp_path / "a"), size).train.examples, Resident)
    streamed = load_dataset(spec, places(tmp_path / "b"), size - 1)
    assert not (tmp_path / "b/cache/datasets").exists()
    assert streamed.fingerprint == resident.fingerprint
    assert streamed.preprocessing == resident.preprocessing
    for name in ("train", "validation", "test"):
        one, other = getattr(resident, name), getattr(streamed, name)
        assert isinstance(one.examples, Resident)
        assert isinstance(other.examples, Streamed)
        assert list(one.ids) == list(other.ids)
        assert torch.equal(one.labels, other.labels)
        assert len(one.examples) == len(other.examples) == len(one)
        assert (one.examples.shape, one.examples.dtype) == (
            other.examples.shape,
            other.examples.dtype,
        )
    state = torch.get_rng_state()
    for order in (ORDER, ORDER[:1], []):
        first = list(resident.train.examples.batches(order))
        second = list(streamed.train.examples.batches(order))
        assert len(first) == len(second) == len(order)
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_set_that_was_resident_streams_later(root, tmp_path):
    spec, where = folder_spec(root), places(tmp_path)
    first = load_dataset(spec, where)
    second = load_dataset(spec, where, 0)
    assert isinstance(second.train.examples, Streamed)
    assert torch.equal(all_pixels(first), all_pixels(second))


def test_half_of_the_free_memory_is_the_default(root, tmp_path, monkeypatch):
    size = all_pixels(load_dataset(folder_spec(root), places(tmp_path))).numel()
    for free, kind in ((2 * size, Resident), (2 * size - 1, Streamed)):
        monkeypatch.setattr("modkernel.data.residency.free_memory", lambda free=free: free)
        images = load_dataset(folder_spec(root), places(tmp_path)).train.examples
        assert isinstance(images, kind)


@pytest.mark.parametrize("order", [ORDER, ORDER[2:]], ids=["in-workers", "in-process"])
def test_a_file_that_breaks_while_it_streams_is_named(root, tmp_path, order):
    images = load_dataset(folder_spec(root), places(tmp_path), 0).train.examples
    assert isinstance(images, Streamed)
    (root / images.paths[7]).write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        list(images.batches(order))
    assert images.paths[7] in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("order", [ORDER, ORDER[2:]], ids=["in-workers", "in-process"])
def test_a_file_that_is_replaced_while_it_streams_is_refused(root, tmp_path, order):
    images = load_dataset(folder_spec(root), places(tmp_path), 0).train.examples
    list(images.batches(order))
    picture(99).save(root / images.paths[7])
    with pytest.raises(ImageError, match=f"changed since .* such as {images.paths[7]}"):
        list(images.batches(order))


def test_a_worker_that_dies(root, tmp_path, monkeypatch):
    images = load_dataset(folder_spec(root), places(tmp_path), 0).train.examples
    parent = os.getpid()

    def die(*_):
        assert os.getpid() != parent
        os._exit(9)

    monkeypatch.setattr("modkernel.data.sources.decode", die)
    with pytest.raises(DataError, match="died"):
        list(images.batches(ORDER))


@pytest.mark.parametrize("limit", [None, 0])
def test_the_training_part_is_train_then_validation(root, tmp_path, limit):
    data = load_dataset(folder_spec(root), places(tmp_path), limit)
    part = data.training_part()
    assert list(part.ids) == [*data.train.ids, *data.validation.ids]
    assert part.labels.tolist() == data.train.labels.tolist() + data.validation.labels.tolist()
    expected = all_pixels(data)[: len(part)]
    assert torch.equal(part.examples.batch(torch.arange(len(part))), expected)
    if isinstance(part.examples, Resident):
        assert part.examples.base is data.train.examples.base
        moved = Dataset(**{**vars(data), "validation": copied(data.validation)}).training_part()
        assert torch.equal(moved.examples.batch(torch.arange(len(part))), expected)


@pytest.mark.parametrize("limits", [(None, None), (None, 0), (0, None), (0, 0)])
def test_joined_sources_are_one_after_the_other(root, tmp_path, limits):
    train, test = (
        getattr(load_dataset(folder_spec(root), places(tmp_path), limit), part).examples
        for part, limit in zip(("train", "test"), limits, strict=True)
    )
    joined, n = join_sources(train, test), len(train) + len(test)
    if limits == (0, 0):
        assert joined.paths == train.paths + test.paths
    else:
        assert isinstance(joined, Joined)
        assert joined.first is train
        assert joined.second is test
    assert (len(joined), joined.shape, joined.dtype) == (n, train.shape, train.dtype)
    both = torch.cat([part.batch(torch.arange(len(part))) for part in (train, test)])
    mixed = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    last = torch.tensor([n - 1, n - 2])
    order = [mixed[:5], torch.tensor([1, 0]), last, mixed, torch.tensor([n - 1, 0, n - 1, 0])]
    for some in (order, order[2:3], []):
        found = list(joined.batches(some))
        assert len(found) == len(some)
        for indices, batch in zip(some, found, strict=True):
            assert torch.equal(batch, both[indices])
    assert torch.equal(joined.batch(mixed), both[mixed])
    # And of a source that is itself joined.
    again = join_sources(joined, Resident.whole(both))
    assert torch.equal(again.batch(torch.arange(2 * n).flip(0)), both.repeat(2, 1, 1, 1).flip(0))


def copied(split: Split) -> Split:
    assert isinstance(split.examples, Resident)
    return Split(split.ids, split.labels, Resident.whole(split.examples.tensor.clone()))


def test_the_training_part_without_labels(root, tmp_path):
    data = load_dataset(folder_spec(root / "train/a"), places(tmp_path))
    assert data.training_part().labels is None
    assert len(data.training_part()) == 12


def test_resident_is_a_window_on_its_tensor():
    images = Resident(torch.arange(10.0)[:, None], 2, 6)
    assert len(images) == 4
    assert images.batch(torch.tensor([3, 0])).tolist() == [[5.0], [2.0]]


def test_a_set_that_fits_moves_to_the_device_as_one_tensor(root, tmp_path):
    data = load_dataset(folder_spec(root), places(tmp_path))
    size = all_pixels(data).numel()
    meta = torch.device("meta")
    moved = place_dataset(data, meta, size)
    splits = ("train", "validation", "test")
    assert len({id(getattr(moved, name).examples.base) for name in splits}) == 1
    for name in splits:
        before, after = getattr(data, name), getattr(moved, name)
        assert after.examples.tensor.is_meta
        assert not before.examples.tensor.is_meta
        assert len(after.examples) == len(before.examples)
        assert (after.examples.start, after.ids) == (before.examples.start, before.ids)
    assert moved.training_part().examples.base is moved.train.examples.base
    assert moved.info() == data.info()
    assert place_dataset(data, meta, size - 1) is data


def test_what_cannot_move_to_the_device_stays(root, tmp_path):
    data = load_dataset(folder_spec(root), places(tmp_path))
    assert place_dataset(data, torch.device("cpu")) is data
    streamed = load_dataset(folder_spec(root), places(tmp_path), 0)
    assert place_dataset(streamed, torch.device("meta"), 1 << 40) is streamed


def test_half_of_the_device_s_free_memory_is_the_default(root, tmp_path, monkeypatch):
    data = load_dataset(folder_spec(root), places(tmp_path))
    size = all_pixels(data).numel()
    for free, stays in ((2 * size, False), (2 * size - 1, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * free))
        assert (place_dataset(data, torch.device("meta")) is data) == stays


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        (torch.full((4, 1, 2, 2), 51, dtype=torch.uint8), (0.2,), (1.0,)),
        (torch.tensor([[[[0]]], [[[255]]]], dtype=torch.uint8), (0.5,), (0.5,)),
        (torch.tensor([[1.0, 3.0], [5.0, 3.5]]), (3.0, 3.25), (2.0, 0.25)),
        (torch.tensor([[1e6], [1e6 + 2.0]]), (1e6 + 1,), (1.0,)),
        (torch.tensor([[0.0, 7.0], [0.0, 7.0]]), (0.0, 7.0), (1.0, 7.0)),
    ],
)
def test_moments(values, mean, std):
    found, findings = preprocessing_of(Resident.whole(values))
    assert found.mean == pytest.approx(mean, abs=1e-6)
    assert found.std == pytest.approx(std, rel=1e-6)
    assert (found.bounds, findings) == (None, ())


def test_moments_do_not_depend_on_the_order():
    values = torch.randn(5000, 70, generator=torch.Generator().manual_seed(0)) * 1e-3
    values[::50, 3], values[7, 5] = -999, torch.nan
    shuffled = values[torch.randperm(5000, generator=torch.Generator().manual_seed(1))]
    assert preprocessing_of(Resident.whole(values)) == preprocessing_of(Resident.whole(shuffled))


def test_free_memory_is_the_least_of_machine_and_container(tmp_path, monkeypatch):
    def path(name):
        return {"/proc/meminfo": tmp_path / "meminfo", "/sys/fs/cgroup": tmp_path}[name]

    monkeypatch.setattr(memory, "Path", path)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8 kB\n")
    assert free_memory() == 8192
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() == 8192
    (tmp_path / "memory.max").write_text("3000\n")
    assert free_memory() == 2000
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 500\nactive_file 300\n")
    assert free_memory() == 2500
    (tmp_path / "meminfo").unlink()
    assert free_memory() == 2500
