"""Tables: every column and row is read, left out and told, or refused."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather, ipc, parquet

from modkernel.data import load_dataset, read_rows
from modkernel.data.table_columns import encode, encoded_names
from modkernel.data.tables import read_table
from modkernel.errors import DataError
from modkernel.spec import DatasetSpec, Preprocessing
from tests.modkernel.helpers.data_made import places

N = 60
RNG = np.random.default_rng(0)
SIZE = np.round(RNG.normal(5, 1, N), 3)
COLOUR = [("red", "green", "blue", "red")[i % 4] for i in range(N)]
SPECIES = [("wren", "owl", "kite")[i % 3] for i in range(N)]
PLAIN = {"size": SIZE, "colour": COLOUR, "species": SPECIES}


def load(path: Path, tmp_path: Path, label: str | None = "species", **options):
    spec = DatasetSpec(name="table", path=str(path), label=label, **options)
    return load_dataset(spec, places(tmp_path))


def saved(tmp_path: Path, **columns):
    parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
    return tmp_path / "data.parquet"


def told(data, kind: str) -> list[str]:
    return [finding.text for finding in data.findings if finding.kind == kind]


def everything(data) -> tuple[np.ndarray, list[str]]:
    """All examples and labels in the order of the file."""
    rows, labels = {}, {}
    for split in (data.train, data.validation, data.test):
        for name, x, y in zip(split.ids, split.examples.tensor, split.labels, strict=True):
            rows[int(name)], labels[int(name)] = x.numpy(), data.classes[y]
    return np.stack([rows[i] for i in sorted(rows)]), [labels[i] for i in sorted(labels)]


def write(table, path: Path) -> None:
    name = path.name
    if name.endswith(".parquet"):
        parquet.write_table(table, path)
    elif name == "stream.arrow":
        with path.open("wb") as file, ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    elif name.endswith((".feather", ".arrow")):
        feather.write_feather(table, path)
    else:
        file = pa.BufferOutputStream()
        mark = "\t" if ".tsv" in name else ","
        csv.write_csv(table, file, csv.WriteOptions(delimiter=mark))
        content = file.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize(
    "name",
    ["a.parquet", "a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz", "a.feather", "a.arrow", "stream.arrow"],
)
def test_the_kinds_of_file(tmp_path, name):
    write(pa.table(PLAIN), tmp_path / name)
    data = load(tmp_path / name, tmp_path)
    assert data.classes == ("kite", "owl", "wren")
    names = ("size", "colour=blue", "colour=green", "colour=red")
    assert data.preprocessing.columns == names
    rows, labels = everything(data)
    one_hot = [[colour == wanted for wanted in ("blue", "green", "red")] for colour in COLOUR]
    assert np.array_equal(rows, np.column_stack([SIZE, one_hot]).astype(np.float32))
    assert labels == SPECIES
    assert told(data, "encoded") == [
        "1 column(s) hold categories, one column of 0 and 1 for each: 'colour' (blue, green, red)."
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_as_people_save_it(tmp_path, encoding, mark):
    number = "{:.3f}".format if mark != ";" else lambda x: f"{x:.3f}".replace(".", ",")
    lines = [mark.join(("größe", "farbe", "species"))]
    lines += [mark.join((number(s), c, k)) for s, c, k in zip(SIZE, COLOUR, SPECIES, strict=True)]
    (tmp_path / "a.csv").write_bytes("\r\n".join(lines).encode(encoding))
    data = load(tmp_path / "a.csv", tmp_path)
    assert data.preprocessing.columns[:2] == ("größe", "farbe=blue")
    rows, labels = everything(data)
    assert np.array_equal(rows[:, 0], SIZE.astype(np.float32))
    assert labels == SPECIES


def test_columns_of_every_type_are_encoded_or_told(tmp_path):
    day = [datetime.date(2026, 1, 1 + i % 28) for i in range(N)]
    path = saved(
        tmp_path,
        **PLAIN,
        row=list(range(1, N + 1)),
        caught=day,
        note=[f"seen by {i}" for i in range(N)],
        nothing=pa.nulls(N),
        raw=[b"\0"] * N,
        ring=pa.array([i % 2 == 0 for i in range(N)]),
        age=pa.array([None if i == 7 else i % 5 for i in range(N)]),
        site=pa.array(["x", "y", None, ""] * (N // 4)).dictionary_encode(),
        counted=[str(i // 2) if i % 9 else "?" for i in range(N)],
        code=[("1", "2", "3")[i % 3] for i in range(N)],
        place=pa.array([[float(i), -i] for i in range(N)]),
    )
    data = load(path, tmp_path)
    assert data.preprocessing.columns == (
        *("size", "colour=blue", "colour=green", "colour=red", "ring", "age", "site=x", "site=y"),
        *("counted", "code=1", "code=2", "code=3", "place[0]", "place[1]"),
    )
    (skipped,) = told(data, "skipped")
    for part in (
        "5 column(s) are not used",
        "'row' (counts the rows)",
        "'caught' (date32[day]: write what matters of a date as numbers",
        "'note' (60 different texts in 60 rows)",
        "'nothing' (without a value)",
        "'raw' (of type binary)",
    ):
        assert part in skipped
    missing = " ".join(told(data, "missing values"))
    assert "texts among numbers, taken for missing: 'counted' ('?')" in missing
    assert "of categories have rows without one, 0 in all: 'site' (30)" in missing
    rows, _ = everything(data)
    assert rows[:, 4].tolist() == [i % 2 == 0 for i in range(N)]
    assert np.isnan(rows[7, 5])
    assert rows[:4, 6:8].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert np.isnan(rows[::9, 8]).all()
    assert rows[1:9, 8].tolist() == [i // 2 for i in range(1, 9)]
    assert rows[:, 13].tolist() == [-i for i in range(N)]


def test_another_table_is_encoded_by_the_names_of_the_columns():
    names = ("size", "a=b", "a=b=c", "ring")
    table = pa.table(
        {
            "ring": [True, None, False],
            "more": [1, 2, 3],
            "a": ["b=c", "new", None],
            "size": [1, 2, 3],
        }
    )
    rows, (finding,) = encode(table, names)
    expected = [[1, 0, 1, 1], [2, 0, 0, np.nan], [3, 0, 0, 0]]
    np.testing.assert_array_equal(rows, expected)
    assert (finding.kind, finding.count) == ("encoded", 1)
    assert "'a' (new: 1 rows)" in finding.text
    with pytest.raises(DataError, match=r"no column for 'ring', .* it has size"):
        encode(pa.table({"size": [1], "a": ["b"]}), names)


def table_of(*columns):
    """What a network of such columns takes."""
    size = len(columns)
    return Preprocessing(
        shape=(size,), dtype="float32", mean=(0.0,) * size, std=(1.0,) * size, columns=columns
    )


def test_rows_for_prediction(tmp_path):
    data = load(saved(tmp_path, **PLAIN), tmp_path)
    takes = data.preprocessing
    shuffled = {"species": ["?"] * 3, "colour": ["red", "teal", None], "size": [1, None, 3]}
    (tmp_path / "new.csv").write_text("note,colour,size\na,red,1\nb,teal,\nc,,3\n")
    write(pa.table(shuffled), tmp_path / "new.parquet")
    for name in ("new.csv", "new.parquet"):
        rows, (finding,) = read_rows(tmp_path / name, takes)
        expected = torch.tensor([[1, 0, 0, 1], [torch.nan, 0, 0, 0], [3, 0, 0, 0]])
        torch.testing.assert_close(rows, expected, equal_nan=True)
        assert "'colour' (teal: 1 rows)" in finding.text
    np.savez(tmp_path / "new.npz", x=expected)
    torch.testing.assert_close(read_rows(tmp_path / "new.npz", takes)[0], expected, equal_nan=True)
    with pytest.raises(DataError, match="columns have no names"):
        read_rows(tmp_path / "new.csv", takes.changed(columns=None))
    with pytest.raises(DataError, match=r"takes rows of 4 numbers, from a file of type \.npz"):
        read_rows(tmp_path / "new.png", takes)


def test_decimal_commas_beside_a_sign_of_missing(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("size;width\n1,5;0,2\n-0,7;?\n2,5;3\n")
    rows, (finding,) = read_rows(path, table_of("width", "size"))
    expected = torch.tensor([[0.2, 1.5], [torch.nan, -0.7], [3, 2.5]])
    torch.testing.assert_close(rows, expected, equal_nan=True)
    assert (finding.kind, finding.count) == ("missing values", 1)
    assert "'width' ('?': 1 rows)" in finding.text


def test_categories_that_look_like_numbers(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("grade,size\n1,0.5\n2,1\n4,2\n,3\n")
    rows, (finding,) = read_rows(path, table_of("grade=1", "grade=2", "grade=A", "size"))
    expected = [[1, 0, 0, 0.5], [0, 1, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3]]
    torch.testing.assert_close(rows, torch.tensor(expected))
    assert "'grade' (4: 1 rows)" in finding.text


@pytest.mark.parametrize(
    "texts",
    ["true false unknown", "01 02 A1", "08:30 09:15 late", "1.50 2.25 none", "NA US null"],
)
def test_a_row_is_read_alone_as_beside_others(tmp_path, texts):
    names, path = texts.split(), tmp_path / "rows.csv"
    path.write_text("kind,y\n" + "".join(f"{name},{i}\n" for name in names * 9 for i in range(2)))
    takes = load(path, tmp_path, label="y").preprocessing
    assert takes.columns == tuple(f"kind={name}" for name in sorted(names))
    for name in names:
        path.write_text(f"kind\n{name}\n")
        (row,), findings = read_rows(path, takes)
        assert row.tolist() == [column == f"kind={name}" for column in takes.columns]
        assert not findings


def test_a_column_that_is_there_twice_is_refused_in_prediction_too(tmp_path):
    (tmp_path / "new.csv").write_text("size,size\n1,2\n")
    with pytest.raises(DataError, match="two columns 'size'"):
        read_rows(tmp_path / "new.csv", table_of("size"))


def test_a_column_called_as_a_category_of_another_is_refused():
    table = pa.table({"x": ["a", "b"] * 9, "x=a": [0.5, 1.5] * 9})
    with pytest.raises(DataError, match="'x=a' beside one whose values would be called so"):
        encoded_names(table)
    table = pa.table({"x": [0.5, 1.5] * 9, "x=a": ["b", "c"] * 9})
    with pytest.raises(DataError, match="columns 'x' and 'x=a', and 'x=a=b' may be a value of eit"):
        encoded_names(table)


def test_categories_that_memory_cannot_hold_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    columns = [f"c{i}" for i in range(20)]
    rows = "".join(",".join([f"v{i % 90}"] * 20) + f",{i % 2}\n" for i in range(400))
    path.write_text(",".join([*columns, "label"]) + "\n" + rows)
    assert path.stat().st_size < 40_000
    takes = load(path, tmp_path, "label").preprocessing
    monkeypatch.setattr("modkernel.data.arrays.free_memory", lambda: 2 * 400 * 1800 * 8 - 1)
    with pytest.raises(DataError, match=r"a\.csv take 0\.01 GiB of memory"):
        load(path, tmp_path, "label")
    with pytest.raises(DataError, match=r"a\.csv take 0\.01 GiB of memory"):
        read_rows(path, takes)


def test_a_table_of_very_many_columns(tmp_path):
    names = [f"gene-{number:05}" for number in range(8_000)]
    path = tmp_path / "wide.tsv"
    path.write_text("\n".join("\t".join(row) for row in [names, *[["1"] * 8_000] * 3]))
    assert read_table(path).shape == (3, 8_000)


@pytest.mark.parametrize(
    ("labels", "classes", "options", "left_out"),
    [
        (pa.array([10, 9, 100] * 20), ("9", "10", "100"), {}, 0),
        (pa.array([10, 9, None] * 20), ("9", "10"), {}, 20),
        (pa.array([1.0, 0.0, float("nan")] * 20), ("0", "1"), {}, 20),
        (pa.array([True, False] * 30), ("False", "True"), {}, 0),
        (
            pa.array(["a", "b", "?", ""] * 15).dictionary_encode(),
            ("a", "b"),
            {"unlabelled": "?"},
            30,
        ),
        (pa.array([0, 1, -1] * 20), ("0", "1"), {"unlabelled": -1}, 20),
        (
            pa.array([2**64 - 1, 2**64 - 2] * 30, pa.uint64()),
            (str(2**64 - 2), str(2**64 - 1)),
            {},
            0,
        ),
    ],
)
def test_kinds_of_labels(tmp_path, labels, classes, options, left_out):
    path = saved(tmp_path, size=SIZE, species=labels)
    data = load(path, tmp_path, **options)
    assert data.classes == classes
    assert len(data.train) + len(data.validation) + len(data.test) == N - left_out
    assert len(told(data, "unlabelled")) == bool(left_out)
    for split in (data.train, data.test):
        for name, label in zip(split.ids, split.labels.tolist(), strict=True):
            value = labels[int(name)].as_py()
            assert str(int(value) if isinstance(value, float) else value) == classes[label]


def test_an_empty_label_column_makes_a_set_without_labels(tmp_path):
    (tmp_path / "a.csv").write_text("size,label\n" + "".join(f"{x},\n" for x in SIZE))
    data = load(tmp_path / "a.csv", tmp_path, "label")
    assert (data.train.labels, data.classes) == (None, ())
    assert "None of the 60 examples has a label" in told(data, "unlabelled")[0]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("01", "1", "2"), ("01", "1", "2")),
        (("true", "false", "true"), ("false", "true")),
        (("10", "9", "-1"), ("-1", "9", "10")),
        (("1.0", "0", "NA"), ("0", "1")),
        (("1e3", "1000", "7"), ("1000", "1e3", "7")),
        (("9223372036854775809", "9223372036854775808", "x"), None),
        (("9223372036854775809", "9223372036854775808", "1"), None),
        (("NA", "b", ""), ("NA", "b")),
    ],
)
def test_labels_of_csv_files_are_as_they_are_written(tmp_path, labels, classes):
    path = tmp_path / "a.csv"
    rows = "".join(f"{x},{labels[i % 3]}\n" for i, x in enumerate(SIZE))
    path.write_text("size,species\n" + rows)
    data = load(path, tmp_path)
    assert data.classes == (tuple(sorted(labels)) if classes is None else classes)
    for split in (data.train, data.test):
        for name, label in zip(split.ids, split.labels.tolist(), strict=True):
            assert data.classes[label] == labels[int(name) % 3].removesuffix(".0")


def test_labels_below_0_are_told(tmp_path):
    data = load(saved(tmp_path, size=SIZE, species=[0, 1, -1] * 20), tmp_path)
    (text,) = told(data, "unlabelled")
    assert "20 of the 60 labels of column 'species' are below 0" in text


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        (
            PLAIN,
            None,
            r"needs the name of its label column: set dataset\.label in a spec .* of size, col",
        ),
        (
            PLAIN,
            "kind",
            "has no column 'kind', the label column: set .* one of size, colour, species",
        ),
        (PLAIN, "size", "numbers with fractions"),
        ({"size": SIZE, "y": [0.0, 1.0, float("inf")] * 20}, "y", "infinite ones, such as inf"),
        ({"species": SPECIES, "note": [str(i) + "x" for i in range(N)]}, "species", "No column"),
        ({"size": SIZE, "species": [datetime.date(2026, 1, 1)] * N}, "species", "type date32"),
        ({"size": SIZE[:0], "species": SPECIES[:0]}, "species", "no rows"),
    ],
)
def test_unfit_tables(tmp_path, columns, label, message):
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path, **columns), tmp_path, label)


def test_files_that_cannot_be_read(tmp_path):
    for name in ("a.parquet", "a.csv.gz", "a.feather", "a.arrow"):
        path = tmp_path / name
        for content in (b"", b"not what it says", b"PAR1 cut short", b"ARROW1\0\0 cut"):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"Cannot read table|needs the name|no rows"):
                load(path, tmp_path, label=None)
    latin = "size,species\n1,café\n".encode("latin-1")
    for text, message in (
        (latin * 20, "Latin-1"),
        (b"size,species\n1,a\n2,b,3\n", "Expected 2 columns, got 3"),
        (b"size,size,species\n1,2,a\n", "two columns 'size'"),
        (b"size,species\n" + b"1,0.5\n2,7\n" * 9, "numbers with fractions .* such as 0.5"),
        (b"size,species\n" + b"1,inf\n2,7\n" * 9, "infinite ones, such as inf"),
        (b"", "Cannot read table"),
    ):
        (tmp_path / "a.csv").write_bytes(text)
        with pytest.raises(DataError, match=message) as caught:
            load(tmp_path / "a.csv", tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(DataError, match=r"one file of type .*\.parquet"):
        load(tmp_path / "a.xlsx", tmp_path)


def test_a_class_of_one_row_is_told(tmp_path):
    data = load(saved(tmp_path, size=SIZE, species=["rare", *SPECIES[1:]]), tmp_path)
    assert any(one.kind == "small" and "rare" in one.text for one in data.findings)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), name=st.sampled_from(["a.parquet", "a.csv", "a.csv.gz", "a.feather"]))
def test_damage_of_any_kind_is_one_sentence_or_none(tmp_path, data, name):
    path = tmp_path / name
    write(pa.table(PLAIN), path)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    try:
        read_table(path)
        load(path, tmp_path)
    except DataError as error:
        if "\n" in str(error):
            raise


def test_times_that_become_equal_are_told_by_their_column(tmp_path):
    times = 1_700_000_000_000 + (np.arange(40) * 7_919 % 40) * 30_000
    path = saved(tmp_path, size=[0.5, 1.5] * 20, time=times, species=["a", "b"] * 20)
    findings = load(path, tmp_path).findings
    assert any("'time' (1700000000000.0 to" in found.text for found in findings)
