"""Folders as Hugging Face's `datasets` saves them: written here as it does, without it."""

from __future__ import annotations

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc

from modkernel.data import huggingface, load_dataset
from modkernel.errors import ClassError, DataError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import places

N = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 6, 7, 3), dtype=np.uint8)
Y = [i % 3 for i in range(N)]
LABEL = {"names": ["wren", "owl", "kite"], "_type": "ClassLabel"}
NUMBER = {"dtype": "float32", "_type": "Value"}


def png(pixels: np.ndarray) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def save(folder: Path, features: dict[str, object], files: int = 1, **columns) -> Path:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    table = pa.table(columns)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        rows = table.slice(i * len(table) // files, len(table) // files)
        with ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(rows, max_chunksize=16)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(
        json.dumps(state | {"_fingerprint": "0", "_type": "Dataset"})
    )
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "citation": ""}))
    return folder


def pictures(folder: Path, rows: slice = slice(0, N), label: str = "label", **more) -> Path:
    columns = {"image": pa.array(list(map(png, PIXELS[rows]))), label: pa.array(Y[rows]), **more}
    return save(folder, {"image": {"_type": "Image"}, label: LABEL}, files=2, **columns)


def load(root: Path, tmp_path: Path, **options):
    spec = DatasetSpec(name="huggingface", path=str(root), **options)
    return load_dataset(spec, places(tmp_path))


def test_images_of_one_data_set(tmp_path):
    root = pictures(tmp_path / "birds", note=["text"] * N)
    for _ in range(2):  # From the cache too.
        data = load(root, tmp_path)
        assert set(data.classes) == {"kite", "owl", "wren"}
        assert len(data.train) + len(data.validation) + len(data.test) == N
        assert "1 column(s) beside the images are not read: note." in {
            finding.text for finding in data.findings
        }
        for split in (data.train, data.validation, data.test):
            rows = [int(Path(name).stem) for name in split.ids]
            assert np.array_equal(split.examples.tensor.numpy(), PIXELS[rows].transpose(0, 3, 1, 2))
            assert [data.classes[y] for y in split.labels] == [LABEL["names"][Y[i]] for i in rows]


def test_the_parts_of_a_dict(tmp_path):
    root = tmp_path / "birds"
    for name, rows in (
        ("train", slice(0, 24)),
        ("validation", slice(24, 32)),
        ("test", slice(32, N)),
    ):
        pictures(root / name, rows)
    pictures(root / "extra", slice(0, 4))
    splits = ["train", "validation", "test", "extra"]
    (root / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    data = load(root, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 8, 8)
    assert np.array_equal(data.test.examples.tensor.numpy(), PIXELS[32:].transpose(0, 3, 1, 2))
    assert any("1 part(s)" in f.text and "extra" in f.text for f in data.findings)


def test_columns_of_numbers_and_a_test_part_without_labels(tmp_path):
    root, size = tmp_path / "rows", np.arange(N) * np.float32(1.5)
    features = {"size": NUMBER, "kind": LABEL, "sex": {"names": ["f", "m"], "_type": "ClassLabel"}}
    sex = [i % 2 for i in range(N)]
    save(root / "train", features, size=size, kind=Y, sex=sex)
    save(root / "test", features, size=size[:5], kind=[-1] * 5, sex=sex[:5])
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"2 columns of type ClassLabel: set .* kind, sex"):
        load(root, tmp_path)
    data = load(root, tmp_path, label="kind")
    assert data.preprocessing.columns == ("size", "sex=f", "sex=m")
    assert len(data.train) + len(data.validation) + len(data.test) == N
    assert any("5 of the 45 examples have no label" in f.text for f in data.findings)
    for name, x, y in zip(
        data.train.ids, data.train.examples.tensor, data.train.labels, strict=True
    ):
        assert x.tolist() == [size[int(name)], sex[int(name)] == 0, sex[int(name)] == 1]
        assert data.classes[y] == LABEL["names"][Y[int(name)]]


def test_folders_that_are_wrong(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"state\.json is missing or damaged: .*save_to_disk"):
        load(tmp_path / "empty", tmp_path)
    (tmp_path / "none").touch()
    with pytest.raises(DataError, match="is no folder"):
        load(tmp_path / "none", tmp_path)
    root = save(tmp_path / "a", {"size": NUMBER, "kind": LABEL}, size=[1.0, 2.0], kind=[0, 7])
    with pytest.raises(DataError, match="has the label 7, and names for 3 alone"):
        load(root, tmp_path)
    empty = pa.array([None], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    image = {"image": {"_type": "Image"}, "label": LABEL}
    with pytest.raises(DataError, match=r"Row 0 of .* has no image"):
        load(save(tmp_path / "b", image, image=empty, label=[0]), tmp_path)
    pictures(tmp_path / "c" / "train", slice(0, 12, 3))
    pictures(tmp_path / "c" / "test", slice(1, 12, 3))
    (tmp_path / "c" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ClassError, match="label 'owl' in another part than 'train'"):
        load(tmp_path / "c", tmp_path)
    arrow = next(pictures(tmp_path / "d").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:2000])
    with pytest.raises(DataError, match="Cannot read table"):
        load(tmp_path / "d", tmp_path)
    state = json.loads((root / "state.json").read_text()) | {"_indices_data_files": ["x"]}
    (root / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="an old version of datasets"):
        load(root, tmp_path)


def test_images_are_unpacked_once_whoever_comes_first(tmp_path, monkeypatch):
    root = pictures(tmp_path / "birds")
    unpack, calls = huggingface._unpack, []

    def slow(*given):
        calls.append(given)
        time.sleep(0.3)
        unpack(*given)

    monkeypatch.setattr(huggingface, "_unpack", slow)
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(lambda _: load(root, tmp_path), range(3)))
    assert len(calls) == 1
    assert len({data.fingerprint for data in loaded}) == 1


@pytest.mark.parametrize("options", [{}, {"test_fraction": 0.3}], ids=["again", "another split"])
def test_a_picture_that_is_gone_from_the_cache_is_unpacked_again(tmp_path, options):
    root = pictures(tmp_path / "birds")
    load(root, tmp_path)
    (unpacked,) = (tmp_path / "cache" / "unpacked").glob("[!.]*")
    next((unpacked / "train").glob("000000005*")).unlink()
    data = load(root, tmp_path, **options)
    ids = [name for part in (data.train, data.validation, data.test) for name in part.ids]
    assert sorted(int(Path(name).stem) for name in ids) == list(range(N))
    for split in (data.train, data.validation, data.test):
        rows = [int(Path(name).stem) for name in split.ids]
        assert [data.classes[y] for y in split.labels] == [LABEL["names"][Y[i]] for i in rows]
        assert np.array_equal(split.examples.tensor.numpy(), PIXELS[rows].transpose(0, 3, 1, 2))


def test_two_names_of_one_part_are_refused(tmp_path):
    root = tmp_path / "birds"
    for name in ("train", "valid", "validation"):
        pictures(root / name)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "valid", "validation"]}')
    with pytest.raises(DataError, match="has 'valid' and 'validation', which name the same part"):
        load(root, tmp_path)


def test_pictures_that_are_named_and_not_held(tmp_path):
    root, names = tmp_path / "birds", [f"pictures/{i}.png" for i in range(N)]
    (root / "pictures").mkdir(parents=True)

    def write(pixels):
        for name, image in zip(names, pixels, strict=True):
            Image.fromarray(image).save(root / name)

    write(PIXELS)
    image = pa.array(
        [png(PIXELS[0]), *({"bytes": None, "path": name} for name in names[1:])],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    save(tmp_path / "saved", {"image": {"_type": "Image"}, "label": LABEL}, image=image, label=Y)
    for file in (tmp_path / "saved").iterdir():
        file.rename(root / file.name)
    before = load(root, tmp_path)
    assert load(root, tmp_path).fingerprint == before.fingerprint
    write(255 - PIXELS)
    after, clean = load(root, tmp_path), load(root, tmp_path / "clean")
    assert after.fingerprint == clean.fingerprint != before.fingerprint
    rows = [int(Path(name).stem) for name in after.test.ids]
    expected = np.stack([PIXELS[i] if i == 0 else 255 - PIXELS[i] for i in rows])
    assert np.array_equal(after.test.examples.tensor.numpy(), expected.transpose(0, 3, 1, 2))
    (root / names[3]).unlink()
    with pytest.raises(DataError, match=r"Cannot read .*3\.png: No such file"):
        load(root, tmp_path)
