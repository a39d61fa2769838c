"""Fingerprints, and what is kept between calls."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from modkernel.data import describe_dataset, load_dataset
from modkernel.data import load as load_module
from modkernel.data.broken import Broken
from modkernel.data.images import try_facts
from modkernel.data.load import find_dataset
from modkernel.data.statistics import preprocessing_of
from modkernel.errors import ImageError, SettingsError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import (
    all_pixels,
    fashion_mnist,
    folder_spec,
    image_folder,
    npz,
    picture,
    places,
)

COUNTS = {"train/a": 12, "train/b": 11, "test/a": 4, "test/b": 3}


def array_spec(path: Path, **changes: np.ndarray) -> DatasetSpec:
    generator = np.random.default_rng(0)
    arrays = {
        "x": generator.integers(0, 256, (40, 5, 5), dtype=np.uint8),
        "y": np.arange(40) % 4,
        "x_test": generator.integers(0, 256, (8, 5, 5), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }
    return DatasetSpec(name="arrays", path=str(npz(path, **{**arrays, **changes})))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "set", COUNTS)


def describe_afresh(spec: DatasetSpec, tmp_path: Path) -> str:
    """The fingerprint, found without anything that was kept."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    return describe_dataset(spec, places(tmp_path)).fingerprint


def test_every_file_counts(root, tmp_path):
    spec = folder_spec(root)
    seen = {describe_dataset(spec, places(tmp_path)).fingerprint}
    for number, path in enumerate(sorted(root.rglob("*.png")), start=1):
        picture(1000 + number).save(path)
        seen.add(describe_dataset(spec, places(tmp_path)).fingerprint)
        assert len(seen) == number + 1
        assert describe_dataset(spec, places(tmp_path)).fingerprint in seen


def test_every_row_and_label_of_arrays_counts(tmp_path):
    path = tmp_path / "a.npz"
    seen = {describe_afresh(array_spec(path), tmp_path)}
    changed = 0
    for name, rows in (("x", 40), ("x_test", 8)):
        for row in range(rows):
            array_spec(path)
            array = np.load(path)[name]
            array[row, 4, 4] ^= 1
            seen.add(describe_afresh(array_spec(path, **{name: array}), tmp_path))
            changed += 1
    swapped = (np.arange(40) % 4)[[1, 0, *range(2, 40)]]
    seen.add(describe_afresh(array_spec(path, y=swapped), tmp_path))
    seen.add(
        describe_afresh(
            array_spec(path, y=np.arange(40) % 4 + 1, y_test=np.arange(8) % 4 + 1), tmp_path
        )
    )
    assert len(seen) == changed + 3


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 6},
        {"channels": 1},
        {"classes": ("b", "a")},
        {"validation_fraction": 0.3},
        {"split_seed": 1},
    ],
)
def test_how_the_set_is_used_counts(root, tmp_path, change):
    plain = describe_dataset(folder_spec(root), places(tmp_path)).fingerprint
    assert describe_dataset(folder_spec(root, **change), places(tmp_path)).fingerprint != plain


def test_the_place_does_not_count(root, tmp_path):
    first = load_dataset(folder_spec(root), places(tmp_path))
    other = shutil.copytree(root, tmp_path / "elsewhere" / "copy")
    assert describe_afresh(folder_spec(other), tmp_path) == first.fingerprint
    assert describe_dataset(folder_spec(root), places(tmp_path / "b")).fingerprint == (
        first.fingerprint
    )
    a, b = array_spec(tmp_path / "a.npz"), array_spec(tmp_path / "b.npz")
    assert describe_afresh(a, tmp_path) == describe_afresh(b, tmp_path)


def test_a_new_name_counts(root, tmp_path):
    first = describe_dataset(folder_spec(root), places(tmp_path)).fingerprint
    (root / "train/a/000.png").rename(root / "train/a/000b.png")
    assert describe_dataset(folder_spec(root), places(tmp_path)).fingerprint != first


@pytest.mark.parametrize("kind", ["folder", "arrays", "fashion_mnist", "digits", "unlabelled"])
@pytest.mark.parametrize("described_first", [True, False])
def test_describe_agrees_with_load(root, tmp_path, kind, described_first):
    where = places(tmp_path)
    fashion_mnist(where.root)
    spec = {
        "folder": folder_spec(root),
        "arrays": array_spec(tmp_path / "a.npz"),
        "fashion_mnist": DatasetSpec(name="fashion_mnist", image_size=8),
        "digits": DatasetSpec(classes=("3", "8")),
        "unlabelled": folder_spec(root / "train/a"),
    }[kind]
    if described_first:
        info = describe_dataset(spec, where)
        shutil.rmtree(where.cache)
        data = load_dataset(spec, where)
    else:
        data = load_dataset(spec, where)
        shutil.rmtree(where.cache)
        info = describe_dataset(spec, where)
    assert describe_dataset(spec, where) == info
    assert (info.name, info.classes, info.fingerprint) == (
        spec.name,
        data.classes,
        data.fingerprint,
    )
    assert data.info() == info
    assert info.preprocessing == data.preprocessing == preprocessing_of(data.train.examples)[0]
    assert (info.n_train, info.n_validation, info.n_test) == (
        len(data.train),
        len(data.validation),
        len(data.test),
    )
    if kind == "unlabelled":
        assert (info.labelled, info.train_counts) == (False, None)
    else:
        assert info.labelled
        assert info.train_counts == tuple(
            data.train.labels.tolist().count(i) for i in range(len(data.classes))
        )


def test_a_second_call_reads_no_image(root, tmp_path, monkeypatch):
    spec, where = folder_spec(root), places(tmp_path)
    first = load_dataset(spec, where)

    def forbid(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("modkernel.data.contents.read_facts", forbid)
    monkeypatch.setattr("modkernel.data.folder.try_facts", forbid)
    monkeypatch.setattr(load_module, "decode_many", forbid)
    second = load_dataset(spec, where)
    assert second.fingerprint == first.fingerprint
    assert second.preprocessing == first.preprocessing
    assert torch.equal(all_pixels(second), all_pixels(first))
    assert torch.equal(second.train.labels, first.train.labels)


def test_only_changed_files_are_read_again(root, tmp_path, monkeypatch):
    spec, where = folder_spec(root), places(tmp_path)
    describe_dataset(spec, where)
    from modkernel.data import folder

    read = []
    real = folder.try_facts
    monkeypatch.setattr(folder, "try_facts", lambda path: (read.append(path), real(path))[1])
    changed = root / "train/b/003.png"
    picture(99).save(changed)
    describe_dataset(spec, where)
    assert read == [changed]


@pytest.mark.parametrize("limit", [None, 0], ids=["resident", "streamed"])
def test_a_file_that_goes_between_listing_and_reading_is_named(root, tmp_path, limit):
    spec, where = folder_spec(root), places(tmp_path)
    gone = root / "train/b/003.png"
    source = find_dataset(spec, where)
    gone.unlink()
    with pytest.raises(ImageError, match=r"There is no file .*003\.png: correct its path"):
        load_dataset(spec, where, limit, source)
    data = load_dataset(spec, where, limit)
    if limit == 0:
        (root / data.train.ids[0]).unlink()
        with pytest.raises(ImageError, match="There is no file"):
            data.train.examples.batch(torch.arange(2))


def test_what_was_met_is_told_even_if_all_can_be_read_by_now(root, tmp_path, monkeypatch):
    met = root / "train/b/003.png"
    real = try_facts
    monkeypatch.setattr(
        "modkernel.data.folder.try_facts",
        lambda path: Broken(path, "a share that was away") if path == met else real(path),
    )
    with pytest.raises(ImageError, match=r"003\.png: a share that was away"):
        load_dataset(folder_spec(root), places(tmp_path))


def test_a_file_of_the_same_size_and_time_is_noticed(root, tmp_path):
    spec, where = folder_spec(root), places(tmp_path)
    path = root / "train/b/003.png"
    stat = path.stat()
    first = describe_dataset(spec, where).fingerprint
    content = path.read_bytes()
    other = picture(5)
    other.save(path)
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == len(content)
    assert describe_dataset(spec, where).fingerprint != first


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-10])
    elif how == "altered":
        path.write_bytes(content[:-10] + bytes(byte ^ 1 for byte in content[-10:]))
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["cut", "altered", "empty"])
@pytest.mark.parametrize("which", ["datasets", "info", "manifests", "splits"])
def test_damaged_cache_files_are_made_again(root, tmp_path, which, how):
    spec, where = folder_spec(root), places(tmp_path)
    first = load_dataset(spec, where)
    pixels = all_pixels(first).clone()
    (path,) = (where.cache / which).iterdir()
    whole = path.read_bytes()
    if which in ("info", "manifests") and how == "altered":
        path.write_text("[1, 2]")
    else:
        damage(path, how)
    if which == "manifests":
        shutil.rmtree(where.cache / "info")
    second = load_dataset(spec, where)
    assert second.fingerprint == first.fingerprint
    assert second.preprocessing == first.preprocessing
    assert torch.equal(all_pixels(second), pixels)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written(root, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(SettingsError, match="Cannot write"):
        load_dataset(folder_spec(root), places(tmp_path))


def _load_in_process(root: Path, folder: Path, barrier, results) -> None:
    torch.set_num_threads(1)
    barrier.wait()
    data = load_dataset(folder_spec(root), places(folder))
    results.put((data.fingerprint, int(all_pixels(data).long().sum())))


def test_several_processes_at_once(root, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_load_in_process, args=(root, tmp_path, barrier, results))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    data = load_dataset(folder_spec(root), places(tmp_path / "other"))
    assert found == {(data.fingerprint, int(all_pixels(data).long().sum()))}
    assert sorted(path.suffix for path in (tmp_path / "cache").rglob("*.*")) == [
        ".json",
        ".json",
        ".safetensors",
        ".safetensors",
    ]


def test_groups_are_a_data_set_of_their_own_whose_order_counts(tmp_path):
    plain = array_spec(tmp_path / "a.npz")
    places_ = places(tmp_path)
    groups = {"odd": ("1", "3"), "even": ("0", "2")}
    joined = plain.changed(groups=groups)
    turned = plain.changed(groups=dict(reversed(groups.items())))
    for spec, classes in ((plain, tuple("0123")), (joined, ("odd", "even"))):
        loaded = load_dataset(spec, places_)
        assert loaded.info() == describe_dataset(spec, places_)
        assert loaded.classes == classes
    assert describe_dataset(turned, places_).classes == ("even", "odd")
    assert len({describe_dataset(s, places_).fingerprint for s in (plain, joined, turned)}) == 3
    whole, two = (load_dataset(spec, places_) for spec in (plain, joined))
    for split in ("train", "validation", "test"):
        assert getattr(whole, split).ids == getattr(two, split).ids
        assert torch.equal(getattr(two, split).labels, 1 - getattr(whole, split).labels % 2)
