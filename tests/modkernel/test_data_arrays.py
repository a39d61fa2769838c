from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from modkernel.data import arrays as arrays_module
from modkernel.data import changes, load_dataset
from modkernel.data.array_examples import as_examples
from modkernel.errors import ClassError, DataError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import npz, places

X = np.random.default_rng(0).normal(size=(40, 5))
Y = np.arange(40) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 6, 7), dtype=np.uint8)


def load(path: Path, tmp_path: Path, **options):
    return load_dataset(DatasetSpec(name="arrays", path=str(path), **options), places(tmp_path))


def told(data, kind: str):
    return [finding for finding in data.findings if finding.kind == kind]


def everything(data) -> dict[str, torch.Tensor]:
    return {
        name: example
        for split in (data.train, data.validation, data.test)
        for name, example in zip(
            split.ids, split.examples.batch(torch.arange(len(split))), strict=True
        )
    }


def test_vectors_from_both_kinds_of_file(tmp_path):
    first = load(npz(tmp_path / "a.npz", x=X, y=Y), tmp_path)
    save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, tmp_path / "a.safetensors")
    second = load(tmp_path / "a.safetensors", tmp_path)
    assert first.classes == ("0", "1", "2", "3")
    assert first.fingerprint == second.fingerprint
    assert first.preprocessing == second.preprocessing
    assert (first.preprocessing.shape, first.preprocessing.dtype) == ((5,), "float32")
    found = everything(first)
    assert sorted(found, key=int) == [str(i) for i in range(40)]
    for name, example in found.items():
        assert torch.equal(example, torch.from_numpy(X[int(name)].astype(np.float32)))
    for name, label in zip(first.train.ids, first.train.labels.tolist(), strict=True):
        assert label == Y[int(name)]


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (IMAGES, (1, 6, 7)),
        (IMAGES[:, None], (1, 6, 7)),
        (IMAGES[..., None], (1, 6, 7)),
        (np.stack([IMAGES] * 3, 1), (3, 6, 7)),
        (np.stack([IMAGES] * 3, 3), (3, 6, 7)),
        (np.stack([IMAGES[:, :3]] * 3, 3), (3, 7, 3)),
    ],
    ids=["NHW", "N1HW", "NHW1", "N3HW", "NHW3", "both-may-be"],
)
def test_where_the_channels_are(array, shape):
    (examples,), findings = as_examples({"x": array})
    assert findings == ()
    assert examples.dtype == torch.uint8
    assert tuple(examples.shape[1:]) == shape
    assert examples.is_contiguous()
    if shape == (3, 6, 7):
        assert torch.equal(examples[:, 1], torch.from_numpy(IMAGES))


def test_images_are_resized_and_converted_on_request(tmp_path):
    path = npz(tmp_path / "a.npz", x=IMAGES, y=Y)
    data = load(path, tmp_path, image_size=12, channels=3)
    assert data.train.examples.shape == data.preprocessing.shape == (3, 12, 12)
    assert data.fingerprint != load(path, tmp_path).fingerprint
    with pytest.raises(DataError, match="vectors"):
        load(npz(tmp_path / "b.npz", x=X, y=Y), tmp_path, image_size=12)


def test_names_and_a_test_part_of_its_own(tmp_path):
    names = np.array(["pear", "fig"])
    path = npz(tmp_path / "a.npz", x=X, y=names[Y % 2], x_test=X[:6], y_test=names[Y[:6] % 2])
    data = load(path, tmp_path)
    assert data.classes == ("fig", "pear")
    assert list(data.test.ids) == [f"test/{i}" for i in range(6)]
    assert data.test.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(data.test.examples.batch(torch.arange(6)), torch.from_numpy(X[:6]).float())
    assert len(data.train) + len(data.validation) == 40


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint64, bool, "S4"])
def test_kinds_of_labels(tmp_path, kind):
    data = load(npz(tmp_path / "a.npz", x=X, y=(Y % 2).astype(kind)), tmp_path)
    assert data.classes == (("False", "True") if kind is bool else ("0", "1"))


def test_numbers_are_sorted_as_numbers(tmp_path):
    data = load(npz(tmp_path / "a.npz", x=X, y=np.array([10, 9, -1, 100])[Y]), tmp_path)
    assert data.classes == ("-1", "9", "10", "100")


def test_without_labels(tmp_path):
    data = load(npz(tmp_path / "a.npz", x=X), tmp_path)
    assert data.classes == ()
    assert data.train.labels is None
    assert (len(data.training_part()), len(data.test)) == (40, 0)
    assert data.test.examples.batch(torch.arange(0)).shape == (0, 5)


NAN = np.where(np.arange(40)[:, None] == 3, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:39]}, r"y of .* has shape \[39\], and there are 40"),
        ({"x": X, "y": Y[:, None]}, r"one label for each example, such as y\.ravel\(\)"),
        ({"x": np.where(np.isnan(NAN), np.inf, X), "y": Y}, "infinite.*first row 3, column 0"),
        ({"x": X * 1e300, "y": Y}, "infinite values, or ones above 3e38"),
        ({"x": X, "y": Y.astype(float)}, r"integers or strings, such as y\.astype\(int\)"),
        ({"x": X, "y": X[:, 0]}, "fractions"),
        ({"x": X, "y": np.eye(4)[Y]}, r"y\.argmax\(1\)"),
        ({"x": X, "y": np.eye(4, dtype=int)[Y]}, r"y\.argmax\(1\)"),
        ({"x": X.astype(object), "y": Y}, "it holds objects"),
        ({"x": X, "y": Y.astype(object)}, "it holds objects"),
        ({"x": X.astype(complex), "y": Y}, "complex128"),
        ({"x": X.astype(str), "y": Y}, "array of numbers"),
        ({"x": X[:, 0], "y": Y}, r"type float64 and shape \[40\]"),
        ({"x": IMAGES / 300, "y": Y}, r"from 0 to 0\.8.*\(x \* 255\)\.round\(\)\.astype"),
        ({"x": IMAGES + 0.5, "y": Y}, r"such as x\.round\(\)|clip"),
        ({"x": IMAGES / 127.5 - 1, "y": Y}, r"from -1 to 1: .*\(\(x - -1\) \* 127\.5\)"),
        ({"x": IMAGES.astype(np.uint16) * 257, "y": Y}, "uint16.*to 65535"),
        ({"x": np.where(IMAGES == 3, np.nan, IMAGES), "y": Y}, "not finite: give images as uint8"),
        ({"x": np.stack([IMAGES] * 2, 1), "y": Y}, "1 or 3 channels"),
        ({"x": X[:0], "y": Y[:0]}, "is empty"),
        ({"y": Y}, "no array 'x'"),
        ({"x": X, "y": Y, "x_test": X[:, :4], "y_test": Y}, "examples of different shapes"),
        ({"x": X, "y": Y, "x_test": X}, "for all of its parts or for none"),
        ({"x": X, "y": Y, "y_test": Y}, "for all of its parts or for none"),
        ({"x": X, "x_test": X, "y_test": Y}, "for all of its parts or for none"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:3]}, "y_test of"),
    ],
)
def test_unfit_arrays(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(npz(tmp_path / "a.npz", **arrays), tmp_path)
    assert not (tmp_path / "cache").exists()


def test_labels_outside_the_classes(tmp_path):
    with pytest.raises(ClassError, match="label '4', which is none of the 4"):
        load(npz(tmp_path / "a.npz", x=X, y=Y, x_test=X, y_test=Y + 4), tmp_path)
    with pytest.raises(ClassError, match="At least two"):
        load(npz(tmp_path / "b.npz", x=X, y=np.zeros(40, int)), tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    for name in ("a.npz", "a.safetensors"):
        path = tmp_path / name
        with pytest.raises(DataError, match="no file or folder on host"):
            load(path, tmp_path)
        single = io.BytesIO()
        np.save(single, X)
        for content in (b"", b"not what it says", b"PK\3\4 cut short", single.getvalue()):
            path.write_bytes(content)
            with pytest.raises(DataError, match="Save it again"):
                load(path, tmp_path)
    (tmp_path / "a.csv").touch()
    with pytest.raises(DataError, match=r"one file of type \.npz or \.safetensors"):
        load(tmp_path / "a.csv", tmp_path)
    with pytest.raises(DataError, match=r"set dataset\.path"):
        load_dataset(DatasetSpec(name="arrays"), places(tmp_path))


def test_a_hostile_file_runs_nothing(tmp_path):
    marker = tmp_path / "was-here"

    class Hostile:
        def __reduce__(self):
            return (subprocess.call, ([sys.executable, "-c", f"open({str(marker)!r}, 'w')"],))

    path = npz(tmp_path / "a.npz", x=np.array([Hostile()], dtype=object), y=Y)
    with pytest.raises(DataError, match="it holds objects"):
        load(path, tmp_path)
    assert not marker.exists()


def header(shape: str) -> bytes:
    """An .npy file without numbers, which claims to hold some."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text


def archive(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", content)
    return path


@pytest.mark.parametrize("shape", [f"({1 << 42},)", f"({1 << 21}, {1 << 21})", "(-1,)"])
def test_a_header_that_claims_more_than_there_is(tmp_path, shape):
    path = archive(tmp_path / "a.npz", header(shape))
    with pytest.raises(DataError, match=r"Cannot read .*a\.npz: .*damaged"):
        load(path, tmp_path)


@pytest.mark.parametrize("at", range(0, 100, 7))
def test_damaged_archives_are_one_sentence(tmp_path, at):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    content = path.read_bytes()
    place = len(content) * at // 100
    path.write_bytes(content[:place] + bytes(b ^ 0xA5 for b in content[place : place + 40]))
    with pytest.raises(DataError, match=r"Cannot read .*a\.npz") as caught:
        load(path, tmp_path)
    assert "\n" not in str(caught.value)
    path.write_bytes(
        content[:place]
        + bytes(b ^ 0xA5 for b in content[place : place + 40])
        + content[place + 40 :]
    )
    with suppress(DataError):  # Names that are altered in one place alone do no harm.
        load(path, tmp_path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_an_archive_that_unpacks_to_more_than_the_memory(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"bomb.{suffix}"
    zeros = np.zeros((1000, 1000), np.uint8)
    zeros[::2, 0] = 1  # A set of equal examples is refused.
    if suffix == "npz":
        np.savez_compressed(path, x=zeros, unread=zeros)
    else:
        save_file({"x": torch.from_numpy(zeros)}, path)
    for free, refused in ((1_999_000, True), (2_100_000, False)):
        monkeypatch.setattr("modkernel.data.arrays.free_memory", lambda free=free: free)
        with pytest.raises(DataError, match=r"bomb.*GiB of memory") if refused else nullcontext():
            load(path, tmp_path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"caf\xe9", r"y of .*label b'caf\\xe9'.*no UTF-8"),
        (b"\xff\xfet\x00e", r"y of .*no UTF-8"),
        ("caf\udce9", r"y of .*characters that are no text"),
    ],
)
def test_labels_that_are_no_text(tmp_path, label, message):
    labels = np.array([label, label[:2]] * 20)
    with pytest.raises(DataError, match=message):
        load(npz(tmp_path / "a.npz", x=X, y=labels), tmp_path)


@pytest.mark.parametrize(
    ("kind", "factor"), [("f4", 255), ("f8", 255), ("f4", 1), ("i8", 1), ("u2", 1), ("f2", 1)]
)
def test_images_of_another_type_are_read_without_loss_and_told(kind, factor):
    given = {"x": (IMAGES / factor).astype(kind), "x_test": (IMAGES[:3] // 255).astype(kind)}
    (train, test), (finding,) = as_examples(given)
    assert torch.equal(train[:, 0], torch.from_numpy(IMAGES))
    assert test.max() == IMAGES[:3].max() // 255 * factor
    assert (finding.kind, finding.count) == ("range", 43)
    assert "without loss" in finding.text


def test_missing_values_are_one_nan_whatever_its_form(tmp_path):
    odd = NAN.copy()
    odd[3] = np.copysign(np.nan, -1)
    first, second = (
        load(npz(tmp_path / f"{i}.npz", x=x, y=Y), tmp_path) for i, x in enumerate((NAN, odd))
    )
    assert first.fingerprint == second.fingerprint
    held = "3" in [*first.test.ids, *first.validation.ids]
    assert len(told(first, "missing values")) == (not held)


def test_a_validation_part_of_its_own_and_arrays_that_are_not_read(tmp_path):
    arrays = {"x": X, "y": Y, "x_val": X[:8], "y_val": Y[:8], "x_tset": X + 1, "meta": np.zeros(3)}
    save_file(
        {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, tmp_path / "a.safetensors"
    )
    for path in (npz(tmp_path / "a.npz", **arrays), tmp_path / "a.safetensors"):
        data = load(path, tmp_path)
        assert list(data.validation.ids) == [f"val/{i}" for i in range(8)]
        assert data.validation.labels.tolist() == Y[:8].tolist()
        assert torch.equal(data.validation.examples.tensor, torch.from_numpy(X[:8]).float())
        assert len(data.train) + len(data.test) == 40
        (finding,) = told(data, "unread")
        assert finding.count == 2
        assert "meta, x_tset" in finding.text
        assert load(path, tmp_path).findings == data.findings  # From the cache too.
    with pytest.raises(DataError, match="y_val needs x_val"):
        load(npz(tmp_path / "b.npz", x=X, y=Y, y_val=Y), tmp_path)
    with pytest.raises(DataError, match="x is needed, and it has x_train, y_train"):
        load(npz(tmp_path / "c.npz", x_train=X, y_train=Y), tmp_path)


PARTLY = np.where(np.arange(40) % 5 == 0, -1, Y)


@pytest.mark.parametrize(
    ("labels", "unlabelled", "count"),
    [
        (PARTLY, -1, 8),
        (np.where(PARTLY < 0, -99, PARTLY), "-99", 8),
        (np.array(["a", "b", "c", "d", "?"])[PARTLY], "?", 8),
        (np.array(["a", "b", "c", "d", ""])[PARTLY], None, 8),
        (np.array([b"a", b"b", b"c", b"d", b""])[PARTLY], None, 8),
    ],
)
def test_examples_without_a_label_are_left_out_and_told(tmp_path, labels, unlabelled, count):
    path = npz(tmp_path / "a.npz", x=X, y=labels, x_test=X[:9], y_test=labels[:9])
    data = load(path, tmp_path, unlabelled=unlabelled)
    assert len(data.classes) == 4
    kept = np.flatnonzero(PARTLY >= 0)
    assert sorted([*data.train.ids, *data.validation.ids], key=int) == [str(i) for i in kept]
    assert list(data.test.ids) == [f"test/{i}" for i in kept if i < 9]
    for split in (data.train, data.validation, data.test):
        rows = [int(name.rpartition("/")[2]) for name in split.ids]
        assert split.labels.tolist() == Y[rows].tolist()
        assert torch.equal(split.examples.tensor, torch.from_numpy(X[rows]).float())
    (finding,) = told(data, "unlabelled")
    assert finding.count == count + 2
    assert "10 of the 49 examples have no label" in finding.text


@pytest.mark.parametrize(
    ("labels", "unlabelled", "text"),
    [
        (PARTLY, None, r"8 of the 40 labels .* below 0 \('-1'\).*dataset\.unlabelled: -1"),
        (np.where(Y == 0, -7, np.where(Y == 1, -1, Y)), -1, r"10 of the 40 .* \('-7'\)"),
        (np.where(Y < 2, -1, 1), None, None),
        (Y, -1, "No example has the label '-1'"),
    ],
)
def test_labels_below_0_are_told_unless_they_are_a_code_of_two(tmp_path, labels, unlabelled, text):
    data = load(npz(tmp_path / "a.npz", x=X, y=labels), tmp_path, unlabelled=unlabelled)
    findings = told(data, "unlabelled")
    assert len(findings) == (0 if text is None else 1 + (unlabelled == -1 and -1 in labels))
    if text is not None:
        assert any(re.search(text, finding.text) for finding in findings)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), kind=st.sampled_from(["npz", "compressed", "safetensors"]))
def test_damage_of_any_kind_is_one_sentence_or_none(tmp_path, data, kind):
    labels = data.draw(st.sampled_from(["int", "text", "bytes"]))
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.npz")
    if kind == "safetensors":
        save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, path)
    else:
        y = {"int": Y, "text": Y.astype(str), "bytes": Y.astype("S")}[labels]
        (np.savez_compressed if kind == "compressed" else np.savez)(path, x=X, y=y)
    content = bytearray(path.read_bytes())
    # Headers are where most of the ways to go wrong are.
    ends = st.integers(0, 400) | st.integers(len(content) - 300, len(content) - 1)
    for place in data.draw(st.lists(ends | st.integers(0, len(content) - 1), max_size=3)):
        content[place % len(content)] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    try:
        loaded = load(path, tmp_path)
    except DataError as error:
        if "\n" in str(error):
            raise
    else:
        out = sum(f.count for f in loaded.findings if f.kind == "unlabelled")
        assert len(loaded.train) + len(loaded.validation) + len(loaded.test) + out >= 40


def test_a_file_that_is_saved_again_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", x=X, y=Y % 2)
    before = load(path, tmp_path)
    read = arrays_module.read_arrays

    def saved_again(path):
        npz(path, x=X, y=1 - Y % 2)
        return read(path)

    monkeypatch.setattr(arrays_module, "read_arrays", saved_again)
    with pytest.raises(DataError, match=r"a\.npz changed while the data set was read"):
        load(path, tmp_path)
    monkeypatch.undo()
    after = load(path, tmp_path)
    assert after.fingerprint != before.fingerprint
    assert not torch.equal(after.train.labels, before.train.labels)


def test_a_file_that_is_saved_twice_within_a_step_of_a_coarse_clock(tmp_path, monkeypatch):
    path, stat, step = tmp_path / "a.npz", Path.stat, 2_000_000_000
    npz(path, x=X, y=Y % 2)
    start = stat(path).st_mtime_ns // step * step

    def coarse(self, **options):
        found = stat(self, **options)
        return SimpleNamespace(
            st_mode=found.st_mode, st_size=found.st_size, st_mtime_ns=start, st_ctime_ns=start
        )

    waited = []

    def saved_meanwhile(seconds):
        waited.append(seconds)
        npz(path, x=X, y=1 - Y % 2)

    monkeypatch.setattr(Path, "stat", coarse)
    monkeypatch.setattr(changes.time, "time_ns", lambda: start + step // 4)
    monkeypatch.setattr(changes.time, "sleep", saved_meanwhile)
    data = load(path, tmp_path)
    assert waited[0] == 1.5, "the rest of the step: whoever saves after it changes the time"
    rows = [int(name) for name in data.train.ids]
    assert data.train.labels.tolist() == (1 - Y[rows] % 2).tolist()


@pytest.mark.parametrize(
    ("ago", "waits"), [(0, 2), (1, 1), (3, 0), (-3600, 0), (0.004, 0.016), (0.1, 0)]
)
def test_how_long_is_waited_for_a_clock(ago, waits, monkeypatch):
    now, waited = 1_700_000_000 * changes.SECOND, []
    monkeypatch.setattr(changes.time, "time_ns", lambda: now)
    monkeypatch.setattr(changes.time, "sleep", waited.append)
    changes.outlast_tick([round(now - ago * changes.SECOND), 0])
    assert waited == ([waits] if waits else [])
