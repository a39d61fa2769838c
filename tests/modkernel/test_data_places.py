"""Data that specs know by a name, which each machine has elsewhere."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modkernel.data import DataPlaces, describe_dataset, example_digests, load_dataset
from modkernel.data.places import is_data_name
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec
from modkernel.training.inputs import given_labels, given_pairs
from tests.modkernel.helpers.data_made import folder_spec, image_folder, npz, places

HOST = socket.gethostname()


def named(tmp_path: Path, **paths: Path) -> DataPlaces:
    return replace(places(tmp_path), paths=paths)


def cells(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    x = np.random.default_rng(seed).normal(size=(40, 3))
    return npz(folder / "cells.npz", x=x, y=np.arange(40) % 2)


def test_a_name_is_the_same_data_wherever_a_machine_has_it(tmp_path: Path) -> None:
    spec = DatasetSpec(name="arrays", path="cells")
    found = []
    for machine in ("a", "b"):
        file = cells(tmp_path / machine)
        where = named(tmp_path / f"home-{machine}", cells=file)
        by_path = describe_dataset(spec.changed(path=str(file)), where)
        assert describe_dataset(spec, where) == by_path
        assert example_digests(spec, where).fingerprint == by_path.fingerprint
        found.append(by_path.fingerprint)
    assert found[0] == found[1]
    other = named(tmp_path / "home-a", cells=cells(tmp_path / "c", seed=1))
    assert describe_dataset(spec, other).fingerprint != found[0]


def test_a_name_wins_over_a_relative_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image_folder(Path("birds"), {"a": 12, "b": 12})
    root = image_folder(tmp_path / "elsewhere", {"c": 12, "d": 12})
    spec = folder_spec(Path("birds"))
    assert load_dataset(spec, named(tmp_path, birds=root)).classes == ("c", "d")
    assert load_dataset(spec, places(tmp_path)).classes == ("a", "b")


def test_files_of_pairs_and_labels_have_names_too(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "birds", {"a": 12, "b": 12})
    where = named(
        tmp_path, birds=root, pairs=tmp_path / "pairs.csv", labels=tmp_path / "labels.csv"
    )
    spec = DatasetSpec(name="image_folder", path="birds")
    data = load_dataset(spec, where)
    first, second, *_ = data.training_part().ids
    # An image may be named by its path on this machine, which is below what the name stands for.
    where.paths["pairs"].write_text(f"{root / first},{second},1\n")
    ids = [next(i for i in data.training_part().ids if i.startswith(c)) for c in ("a", "b")]
    where.paths["labels"].write_text("".join(f"{root / each},{each[0]}\n" for each in ids))
    assert given_pairs(data, spec, "pairs", where).same.tolist() == [True]
    assert given_labels(data, spec, "labels", where).classes == ("a", "b")
    with pytest.raises(DataError, match=f"labels 'other' is no file or folder on host {HOST}"):
        given_labels(data, spec, "other", where)


def test_what_is_neither_a_file_nor_a_name_is_one_sentence(tmp_path: Path) -> None:
    where = named(tmp_path, cells=tmp_path / "gone.npz", birds=tmp_path)
    for path in ("brids", str(tmp_path / "brids")):
        with pytest.raises(DataError) as caught:
            describe_dataset(DatasetSpec(name="arrays", path=path), where)
        said = str(caught.value)
        assert f"'{path}' is no file or folder on host {HOST}" in said
        assert "those are birds, cells" in said
        assert "MODKERNEL_DATA_PATHS" in said
    with pytest.raises(DataError, match="it knows none"):
        describe_dataset(DatasetSpec(name="arrays", path="brids"), places(tmp_path))
    with pytest.raises(DataError, match=rf"host {HOST} has at .*gone\.npz .* nothing is there"):
        describe_dataset(DatasetSpec(name="arrays", path="cells"), where)


@pytest.mark.parametrize(
    ("text", "fits"),
    [("birds-2_v1", True), ("vögel", True), ("a.csv", False), ("a/b", False), ("..", False)],
)
def test_what_a_name_looks_like(text: str, fits: bool) -> None:
    assert is_data_name(text) is fits
