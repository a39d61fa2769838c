"""What an image file holds beyond eight bits of opaque grey or colour survives, or is told."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modkernel.data import load_dataset, read_images
from modkernel.data.images import PLAIN
from modkernel.errors import DataError, ImageError
from modkernel.spec import DatasetSpec, ImageReading
from tests.modkernel.helpers.data_made import (
    all_pixels,
    folder_spec,
    image_folder,
    noticed,
    npz,
    picture,
    places,
)


def kinds(data) -> dict[str, int]:
    return {finding.kind: finding.count for finding in noticed(data)}


def wide_folder(root, top: int, kind: str = "png", count: int = 12, dtype=np.uint16):
    """Two classes of noise with values 0 to `top`."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            values = random.integers(0, top + 1, (6, 8)).astype(dtype)
            values[0, :2] = 0, top
            Image.fromarray(values).save(root / name / f"{i}.{kind}")
    return root


@pytest.mark.parametrize(
    ("top", "kind", "dtype"),
    [
        (240, "png", np.uint16),
        (65535, "png", np.uint16),
        (3000, "tif", np.uint16),
        (900_000, "tif", np.int32),
        (1, "tif", np.float32),
    ],
)
def test_more_than_eight_bits_are_scaled_by_the_range_of_the_set(tmp_path, top, kind, dtype):
    root = wide_folder(tmp_path / "set", top, kind, dtype=dtype)
    data = load_dataset(folder_spec(root), places(tmp_path))
    assert data.preprocessing.reading == ImageReading(value_range=(0, top))
    for part in (data.train, data.validation, data.test):
        for name, pixels in zip(part.ids, part.examples.tensor, strict=True):
            values = np.asarray(Image.open(root / name)).astype(np.float64)
            assert np.array_equal(pixels[0], np.round(values * (255 / top)).astype(np.uint8))
    assert kinds(data) == {"range": 24}
    again = load_dataset(folder_spec(root), places(tmp_path))
    assert again.findings == data.findings
    assert again.preprocessing == data.preprocessing


def test_prediction_scales_by_the_same_range_and_cuts_off_the_rest(tmp_path):
    Image.fromarray(np.array([[0, 120, 240, 999]], np.uint16)).save(tmp_path / "x.png")
    read = read_images([tmp_path / "x.png"], (1, 1, 4), ImageReading(value_range=(0, 240)))
    assert read.flatten().tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("white", [240, 999, 4080, 16_383])
def test_what_is_white_is_not_guessed_where_a_network_of_eight_bits_cannot_know(tmp_path, white):
    Image.fromarray(np.array([[0, white]], np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=f"from 0 to {white} do not tell what is white"):
        read_images([tmp_path / "x.png"], (1, 1, 2))


def test_of_sixteen_bits_the_upper_eight_are_read_by_a_network_of_eight(tmp_path):
    Image.fromarray(np.array([[0, 257, 32_896, 65_535]], np.uint16)).save(tmp_path / "x.png")
    read = read_images([tmp_path / "x.png"], (1, 1, 4))
    assert read.flatten().tolist() == [0, 1, 128, 255]


def test_another_range_may_be_set_and_a_few_high_values_are_told(tmp_path):
    root = wide_folder(tmp_path / "set", 200)
    for i in range(6):
        hot = np.asarray(Image.open(root / "a" / f"{i}.png")).copy()
        hot[3, 3] = 60_000
        Image.fromarray(hot).save(root / "a" / f"{i}.png")
    data = load_dataset(folder_spec(root), places(tmp_path))
    (text,) = (found.text for found in data.findings if found.kind == "range")
    assert "Half of them do not go beyond 200" in text
    set_range = load_dataset(folder_spec(root, value_range=(0, 200)), places(tmp_path))
    assert set_range.fingerprint != data.fingerprint
    assert set_range.train.examples.tensor.float().std() > 60
    assert data.train.examples.tensor.float().median() <= 1


def test_images_of_a_much_smaller_range_than_the_others_are_counted(tmp_path):
    root = wide_folder(tmp_path / "set", 60_000)
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).random((6, 8))).convert("F").save(
            root / "b" / f"narrow{i}.tif"
        )
    data = load_dataset(folder_spec(root), places(tmp_path))
    (text,) = (found.text for found in data.findings if found.kind == "range")
    assert "2 of them do not reach the first grey level" in text
    assert "b/narrow0.tif" in text


def test_images_of_eight_and_of_sixteen_bits_are_told_apart(tmp_path):
    root = wide_folder(tmp_path / "set", 240)
    grey = picture(1, mode="L")
    grey.save(root / "a" / "eight.png")
    data = load_dataset(folder_spec(root), places(tmp_path))
    assert "The other 1 have eight bits and stay" in noticed(data)[0].text
    row = [*data.train.ids, *data.validation.ids, *data.test.ids].index("a/eight.png")
    assert np.array_equal(all_pixels(data)[row, 0], np.asarray(grey))


def test_sixteen_bits_a_colour_are_told(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 4, "b": 4})
    rows = b"".join(b"\0" + bytes([x, 0] * 3 * 8) for x in range(6))
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    )
    (root / "a" / "deep.png").write_bytes(content)
    data = load_dataset(folder_spec(root), places(tmp_path))
    assert "1 of 9 images have sixteen bits a colour, such as a/deep.png" in noticed(data)[0].text


def shapes(root, colour: int, kinds: str = "RGBA", suffix: str = "png"):
    """Two classes that differ in their alpha channels alone: a bar at the left or at the top."""
    for name in ("left", "top"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            alpha = np.zeros((8, 8), np.uint8)
            alpha[:, : 2 + i % 3] = 255 if i % 2 else 200
            if name == "top":
                alpha = alpha.T
            grey = np.full((8, 8), colour, np.uint8)
            planes = [grey, alpha] if kinds == "LA" else [grey, grey, grey, alpha]
            image = Image.fromarray(np.stack(planes, 2))
            image.save(
                root / name / f"{i}.{suffix}", **({"lossless": True} if suffix == "webp" else {})
            )
    return root


@pytest.mark.parametrize(
    ("colour", "background"), [(0, 255), (100, 255), (239, 255), (250, 0), (255, 0)]
)
@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "webp")])
def test_a_shape_in_the_alpha_channel_alone_is_seen(tmp_path, colour, background, mode, suffix):
    root = shapes(tmp_path / "set", colour, mode, suffix)
    data = load_dataset(folder_spec(root, channels=1), places(tmp_path))
    assert data.preprocessing.reading == ImageReading(background=background)
    assert kinds(data)["transparency"] == 16
    for pixels, name in zip(data.train.examples.tensor, data.train.ids, strict=True):
        shape = pixels[0] != background
        assert shape.any()
        assert not shape.all()
        assert shape[:, 0].all() == name.startswith("left")
    read = read_images([root / data.train.ids[0]], (1, 8, 8), data.preprocessing.reading)
    assert torch.equal(read[0], data.train.examples.tensor[0])


def test_black_and_white_shapes_are_laid_on_grey_and_others_as_one_says(tmp_path):
    root = shapes(tmp_path / "set", 0)
    white = shapes(tmp_path / "other", 255)
    for path in white.rglob("*.png"):
        path.rename(root / path.parent.name / f"white{path.name}")
    data = load_dataset(folder_spec(root), places(tmp_path))
    assert data.preprocessing.reading.background == 128
    chosen = load_dataset(folder_spec(root, background=255), places(tmp_path))
    assert chosen.preprocessing.reading == PLAIN
    assert chosen.fingerprint != data.fingerprint


def test_a_palette_with_transparency_is_laid_on_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "x.png", transparency=0)
    read = read_images([tmp_path / "x.png"], (3, 1, 2))[0]
    assert read[:, 0, 0].tolist() == [255, 255, 255]
    assert read[:, 0, 1].tolist() == [10, 20, 30]


def test_opaque_alpha_channels_are_not_worth_a_word(tmp_path):
    root = tmp_path / "set"
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(5):
            picture(ord(name) * 100 + i).convert("RGBA").save(root / name / f"{i}.png")
    assert noticed(load_dataset(folder_spec(root), places(tmp_path))) == []


@pytest.mark.parametrize("limit", [None, 0], ids=["resident", "streamed"])
def test_a_folder_of_equal_images_is_refused_with_the_likely_cause(tmp_path, limit):
    root = shapes(tmp_path / "set", 255)
    spec = folder_spec(root, background=255)
    with pytest.raises(DataError, match=r"All \d+ training .* equal .* set another dataset.backgr"):
        load_dataset(spec, places(tmp_path), limit)
    wide = folder_spec(wide_folder(tmp_path / "wide", 240), value_range=(500, 600))
    with pytest.raises(DataError, match=r"equal .* another dataset.value_range"):
        load_dataset(wide, places(tmp_path), limit)
    with pytest.raises(DataError, match=r"equal"):  # Nothing is remembered of it.
        load_dataset(wide, places(tmp_path), limit)


@pytest.mark.parametrize("shape", [(20, 3), (20, 6, 6)])
def test_equal_arrays_are_refused_and_equal_classes_told(tmp_path, shape):
    dtype = np.float32 if len(shape) == 2 else np.uint8
    x, y = np.full(shape, 7, dtype), np.arange(20) % 2
    path = npz(tmp_path / "a.npz", x=x, y=y)
    spec = DatasetSpec(name="arrays", path=str(path))
    with pytest.raises(DataError, match=r"All \d+ training examples are equal .* blank"):
        load_dataset(spec, places(tmp_path))
    x[y == 1] = np.random.default_rng(0).integers(0, 99, x[y == 1].shape)
    data = load_dataset(
        DatasetSpec(name="arrays", path=str(npz(tmp_path / "b.npz", x=x, y=y))), places(tmp_path)
    )
    (found,) = (found for found in data.findings if found.kind == "equal")
    assert "1 of 2 classes are all equal once they are read (0)" in found.text
    assert found.count == int((data.train.labels == 0).sum())
