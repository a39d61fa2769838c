from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modkernel.data import load_dataset, read_pairs
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import image_folder, places

IDS = ["0", "1", "2", "3"]


def written(tmp_path: Path, text: str, name: str = "pairs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def named(table, ids=IDS) -> list[tuple[str, str, bool]]:
    return [
        (ids[i], ids[j], same)
        for i, j, same in zip(table.i.tolist(), table.j.tolist(), table.same.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "0,1,1\n2,3,0\n",
        "first,second,same\n0,1,1\n2,3,0\n",
        "\ufefffirst,second,same\r\n 0 , 1 , 1\r\n\r\n2,3,0\r\n",
        "3,2,0\n1,0,1\n0,1,1\n",
        "0\t1\tTRUE\n2\t3\tFALSE\n",
        'a;b;same\n"0";1;1\n2;3;0\n',
    ],
    ids=["plain", "header", "excel", "other-order-and-repeated", "tabs", "semicolons"],
)
def test_csv(tmp_path, text):
    table = read_pairs(written(tmp_path, text), IDS)
    assert named(table) == [("0", "1", True), ("2", "3", False)]
    assert table.fingerprint == read_pairs(written(tmp_path, "0,1,1\n2,3,0\n"), IDS).fingerprint


def test_positions_follow_the_ids_and_the_fingerprint_does_not(tmp_path):
    path = written(tmp_path, "0,1,1\n2,3,0\n")
    ids = ["3", "2", "1", "0"]
    table = read_pairs(path, ids)
    assert named(table, ids) == [("0", "1", True), ("2", "3", False)]
    assert table.fingerprint == read_pairs(path, IDS).fingerprint


@pytest.mark.parametrize("text", ["0,1,0\n2,3,0\n", "0,1,1\n", "0,2,1\n2,3,0\n"])
def test_other_pairs_have_another_fingerprint(tmp_path, text):
    first = read_pairs(written(tmp_path, "0,1,1\n2,3,0\n"), IDS)
    assert read_pairs(written(tmp_path, text), IDS).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,1\n0,9,1\n", "row 2, names the example '9'"),
        ("9,8,1\n", "row 1, names the example '9'"),
        ("0,1,1\n0,1\n", r"row 2, has 2 field\(s\)"),
        ("0,1,2\n", "row 1, has '2'"),
        ("0,1,same\n", "row 1, has 'same'"),
        ("a,b,same\n0,1,\n", "row 2, has ''"),
        ("9,8,same\n0,1,1\n", "row 1, names the example '9'"),
        ("0,1,1\n\n2,2,1\n", "row 3, pairs '2' with itself"),
        ("0,1,1\n2,3,1\n1,0,0\n", "row 3, contradicts row 1"),
        ("a,b,same\n", "has no pairs"),
        ("", "has no pairs"),
    ],
)
def test_wrong_rows_are_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_pairs(written(tmp_path, text), IDS)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_pairs(tmp_path / "none.csv", IDS)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81,1,1\n")
    with pytest.raises(DataError, match="as CSV"):
        read_pairs(binary, IDS)
    with pytest.raises(DataError, match="as Parquet"):
        read_pairs(written(tmp_path, "0,1,1\n", "text.parquet"), IDS)


@pytest.mark.parametrize("same", [[1, 0], [True, False], [1.0, 0.0], ["1", "0"]])
@pytest.mark.parametrize("as_type", [str, int])
def test_parquet_is_the_same_as_csv(tmp_path, same, as_type):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"a": list(map(as_type, "02")), "b": list(map(as_type, "13")), "same": same}
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    table = read_pairs(path, IDS)
    assert named(table) == [("0", "1", True), ("2", "3", False)]
    assert table.fingerprint == read_pairs(written(tmp_path, "0,1,1\n2,3,0\n"), IDS).fingerprint


def test_parquet_rows_are_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.table({"a": [0, 0], "b": [1, 9], "same": [1, None]}), path)
    with pytest.raises(DataError, match="row 2, names the example '9'"):
        read_pairs(path, IDS)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs the package 'pyarrow': pip install"):
        read_pairs(tmp_path / "pairs.parquet", IDS)


def test_images_go_by_relative_or_absolute_path_and_test_images_do_not(tmp_path):
    root = image_folder(tmp_path / "set", {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    spec = DatasetSpec(name="image_folder", path=str(root), validation_fraction=0.5)
    part = load_dataset(spec, places(tmp_path)).training_part()
    relative = written(tmp_path, "train/a/000.png,train/a/001.png,1\n")
    absolute = written(
        tmp_path, f"{root}/train/a/000.png,{root}/train/a/001.png,1\n", "absolute.csv"
    )
    table = read_pairs(absolute, part.ids, root)
    assert named(table, part.ids) == [("train/a/000.png", "train/a/001.png", True)]
    assert table.fingerprint == read_pairs(relative, part.ids, root).fingerprint
    with pytest.raises(DataError, match="none of those that the data set trains"):
        read_pairs(absolute, part.ids)
    with pytest.raises(DataError, match="none of those that the data set trains"):
        read_pairs(written(tmp_path, "test/a/000.png,train/a/001.png,1\n"), part.ids, root)


def test_pairs_with_a_held_out_example_are_left_out(tmp_path):
    path = written(tmp_path, "0,1,1\n2,t,0\nt,u,1\n2,3,0\n")
    table = read_pairs(path, IDS, held_out=["t", "u"])
    assert named(table) == [("0", "1", True), ("2", "3", False)]
    assert table.left_out == 2
    alone = read_pairs(written(tmp_path, "0,1,1\n2,3,0\n", "alone.csv"), IDS)
    assert (alone.fingerprint, alone.left_out) == (table.fingerprint, 0)
    with pytest.raises(DataError, match="none of those that the data set trains"):
        read_pairs(path, IDS, held_out=["t"])


def test_pairs_of_held_out_examples_alone_are_refused(tmp_path):
    with pytest.raises(DataError, match="never trained on"):
        read_pairs(written(tmp_path, "0,t,1\n"), IDS, held_out=["t"])
