from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modkernel.data import load_dataset
from modkernel.data.copies import copies_findings
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import folder_spec, image_folder, noticed, npz, places


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=30),
    cuts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    labelled=st.booleans(),
)
def test_the_numbers_are_those_of_a_brute_force_count(rows, cuts, labelled):
    n = len(rows)
    one, two = sorted(min(cut, n) for cut in cuts)
    parts = [slice(0, one), slice(one, two), slice(two, n)]
    hashes = [str(content) for content, _ in rows]
    labels = [label for _, label in rows] if labelled else None
    ids = [f"e{i}" for i in range(n)]
    found = copies_findings(
        torch.tensor([int(each) - 5 for each in hashes]),
        ids,
        None if labels is None else torch.tensor(labels),
        "abc",
        parts,
    )
    counts = Counter()
    for later, earlier in ((parts[2], hashes[:two]), (parts[1], hashes[:one])):
        copied = sum(each in earlier for each in hashes[later])
        if copied:
            counts["leak", copied] += 1
    if labelled:
        doubtful = sum(
            any(
                h == hashes[i] and label != labels[i]
                for h, label in zip(hashes, labels, strict=True)
            )
            for i in range(n)
        )
        if doubtful:
            counts["contradictions", doubtful] += 1
    repeated = sum(len(hashes[part]) - len(set(hashes[part])) for part in parts)
    if repeated:
        counts["copies", repeated] += 1
    assert Counter((each.kind, each.count) for each in found) == counts


def test_copies_across_the_parts_and_classes_of_a_folder(tmp_path):
    root = image_folder(
        tmp_path / "set",
        {"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2, "test/a": 3, "test/b": 3},
    )
    assert noticed(load_dataset(folder_spec(root), places(tmp_path))) == []
    shutil.copy(root / "train/a/001.png", root / "test/a/same.png")
    shutil.copy(root / "val/b/000.png", root / "test/b/same.png")
    shutil.copy(root / "train/b/002.png", root / "val/b/same.png")
    shutil.copy(root / "train/a/003.png", root / "train/b/wrong.png")
    shutil.copy(root / "train/a/004.png", root / "train/a/twice.png")
    data = load_dataset(folder_spec(root), places(tmp_path))
    texts = [(each.kind, each.count, each.text) for each in noticed(data)]
    assert [(kind, count) for kind, count, _ in texts] == [
        ("leak", 2),
        ("leak", 1),
        ("contradictions", 2),
        ("copies", 2),
    ]
    assert "2 of 8 test examples" in texts[0][2]
    assert "ones, such as test/a/same.png of train/a/001.png" in texts[0][2]
    assert "such as val/b/same.png of train/b/002.png" in texts[1][2]
    assert "train/a/003.png (a) and train/b/wrong.png (b)" in texts[2][2]


def test_copies_in_arrays(tmp_path):
    random = np.random.default_rng(0)
    x, x_test = random.normal(size=(30, 4)), random.normal(size=(10, 4))
    x_test[:3] = x[:3]
    y = np.arange(30) % 2
    path = npz(tmp_path / "a.npz", x=x, y=y, x_test=x_test, y_test=1 - y[:10])
    data = load_dataset(DatasetSpec(name="arrays", path=str(path)), places(tmp_path))
    assert [(each.kind, each.count) for each in noticed(data)] == [
        ("leak", 3),
        ("contradictions", 6),
    ]
