"""Label files: what is read from them, and every way in which they are refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modkernel.data import LabelList, blank_labels, read_labels
from modkernel.data.label_file import read_named
from modkernel.errors import ClassError, DataError

IDS = ("0", "1", "2", "3", "a, b", 'with "quotes"')
CLASSES = ("cat", "dog")


def read(tmp_path: Path, text: str, classes: tuple[str, ...] = CLASSES) -> LabelList:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path, IDS, classes, held_out=["test/0"])


def by_id(found: LabelList) -> dict[str, str]:
    return {
        IDS[row]: found.classes[label]
        for row, label in zip(found.rows.tolist(), found.labels.tolist(), strict=True)
    }


def test_labels_are_read_and_empty_cells_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "id,label\n2,dog\n0, cat \n\n1,\n3,\n2,dog\n")
    assert by_id(found) == {"0": "cat", "2": "dog"}
    assert (found.classes, found.empty) == (CLASSES, 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "; "])
@pytest.mark.parametrize("header", ["", "file{0}class\r\n", "Bild{0}Käfer\n\n", '"id"{0}"label"\n'])
def test_separators_headers_and_encodings(
    tmp_path: Path, encoding: str, separator: str, header: str
) -> None:
    path = tmp_path / "labels.csv"
    text = header + '"a, b"{0}dog\n0{0}cat\n"with ""quotes"""{0}"cat"\n'
    path.write_bytes(text.format(separator).encode(encoding))
    found = read_labels(path, IDS, CLASSES)
    assert by_id(found) == {"a, b": "dog", "0": "cat", 'with "quotes"': "cat"}


def test_commas_in_tab_separated_names_and_a_header_without_known_classes(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("file\tspecies\na,1\tcat\na,2\tdog\n")
    found = read_labels(path, ["a,1", "a,2"], ())
    assert (found.classes, found.rows.tolist()) == (("cat", "dog"), [0, 1])
    path.write_text("a,9\tcat\na,1\tcat\na,2\tdog\n")
    with pytest.raises(DataError, match="row 1, names the example 'a,9'"):
        read_labels(path, ["a,1", "a,2"], ())


def test_the_fingerprint_tells_labels_apart_and_nothing_else(tmp_path: Path) -> None:
    found = read(tmp_path, "id,label\n0,cat\n1,dog\n").fingerprint
    assert read(tmp_path, "1,dog\n0,cat\n0,cat\n2,\n").fingerprint == found
    assert read(tmp_path, "\ufeffID,Label\r\n1,dog\r\n0,cat\r\n").fingerprint == found
    assert read(tmp_path, "0,dog\n1,cat\n").fingerprint != found
    assert read(tmp_path, "0,cat\n1,dog\n2,dog\n").fingerprint != found


def test_without_classes_those_of_the_file_are_taken(tmp_path: Path) -> None:
    found = read(tmp_path, "0,zebra\n1,ant\n2,zebra\n", classes=())
    assert found.classes == ("ant", "zebra")
    assert by_id(found) == {"0": "zebra", "1": "ant", "2": "zebra"}


def test_a_class_with_blanks_around_its_name_is_meant_without_them(tmp_path: Path) -> None:
    found = read(tmp_path, "id,label\n0,lead\n1,dog\n", (" lead", "dog "))
    assert by_id(found) == {"0": " lead", "1": "dog "}
    both = read_named(tmp_path / "labels.csv", IDS, ("lead", "dog", "dog "))
    assert both == ({"0": "lead", "1": "dog"}, 2)


def test_an_image_is_named_by_its_path_too(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"{tmp_path}/x/1.png,cat\nx/2.png,dog\n")
    found = read_labels(path, ["x/1.png", "x/2.png"], CLASSES, root=tmp_path)
    assert found.rows.tolist() == [0, 1]


def test_an_image_that_was_put_into_its_classs_folder_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("unknown/7.png,cat\ny/2.png,dog\n")
    with pytest.raises(DataError, match=r"such as 'cat/7\.png'\. Is it 'cat/7\.png' now\?"):
        read_labels(path, ["cat/7.png", "y/2.png"], CLASSES)
    with pytest.raises(DataError, match=r"such as 'cat/7\.png'\.$"):
        read_labels(path, ["cat/7.png", "y/2.png", "dog/7.png"], CLASSES)


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("0,cat\n9,dog\n", DataError, "row 2, names the example '9'"),
        ("0,cat\ntest/0,dog\n", DataError, "row 2, labels 'test/0', which is of the test part"),
        ("0,cat\n1,bird\n", ClassError, "row 2, has the class 'bird'.*'cat', 'dog'"),
        ("0,cat\n1,dog\n0,dog\n", DataError, "row 3, calls '0' 'dog', but row 1 calls it 'cat'"),
        ("0,cat\n1,cat\n", ClassError, "no example of class 'dog'.*--classes"),
        ("0,cat,1\n", DataError, "row 1, has 3 field"),
        ("0|cat\n", DataError, "row 1, has 1 field.*comma .or tab, or semicolon"),
        ("9,cat\n0,dog\n", DataError, "row 1, names the example '9'"),
        ("9,wolf\n0,dog\n", DataError, "row 1, names the example '9'"),
        ("id,label,note\n0,dog,\n", DataError, "row 1, has 3 field"),
        ("id,label\n0,\n1,\n", DataError, "has no label"),
        ("", DataError, "has no label"),
    ],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, text: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        read(tmp_path, text)


def test_a_class_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassError, match=r"class 'a\\nb', whose name has control characters"):
        read(tmp_path, '0,"a\nb"\n1,c\n', classes=())


def test_one_class_tells_nothing_apart(tmp_path: Path) -> None:
    with pytest.raises(ClassError, match="one class only, 'ant'"):
        read(tmp_path, "0,ant\n1,ant\n", classes=())


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="as CSV"):
        read_labels(path, IDS, CLASSES)
    path.write_bytes("0,Käfer\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"byte 3 is no UTF-8 text .it is Latin-1, perhaps"):
        read_labels(path, IDS, CLASSES)
    path.write_bytes("0,cat\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="zero bytes"):
        read_labels(path, IDS, CLASSES)
    with pytest.raises(DataError, match="Cannot read label file"):
        read_labels(tmp_path / "none.csv", IDS, CLASSES)


@given(st.lists(st.sampled_from(IDS), min_size=1, unique=True))
def test_blank_labels_name_each_example_with_an_empty_cell(ids: list[str]) -> None:
    rows = list(csv.reader(io.StringIO(blank_labels(ids))))
    assert rows == [["id", "label"], *([name, ""] for name in ids)]


def test_labels_of_the_set_count_beside_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("0,dog\n1,\n3,cat\n")
    own = torch.tensor([0, -1, 1, -1, -1, -1])
    found = read_labels(path, IDS, CLASSES, own=own)
    assert by_id(found) == {"0": "dog", "2": "dog", "3": "cat"}
    assert (found.own, found.empty) == (1, 1)
    assert found.fingerprint == read_labels(path, IDS, CLASSES).fingerprint


def test_a_blank_file_begins_with_the_labels_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(blank_labels(["1", "2"], {"a, b": "dog"}))
    assert path.read_text() == 'id,label\n"a, b",dog\n1,\n2,\n'
    assert read_named(path, IDS, CLASSES) == ({"a, b": "dog"}, 3)
