"""Examples that strangers hand over: what is read, and how, and what is refused in a sentence."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modkernel.data import given as module
from modkernel.data import load_dataset, read_rows
from modkernel.data.given import read_given
from modkernel.data.images import read_images
from modkernel.data.sources import Resident
from modkernel.data.statistics import preprocessing_of
from modkernel.data.two_values import white_of
from modkernel.errors import DataError, ImageError
from modkernel.spec import DatasetSpec, Preprocessing
from tests.modkernel.helpers.data_made import places

GREY = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.3,), std=(0.2,))
COLOUR = Preprocessing(shape=(3, 6, 4), dtype="uint8", mean=(0.3,), std=(0.2,))
ROWS = Preprocessing(shape=(3,), dtype="float32", mean=(0.0,), std=(1.0,))
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)


def file(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


PNG = file(Image.fromarray(PIXELS))


@pytest.mark.parametrize(
    "item",
    [
        PNG,
        base64.b64encode(PNG).decode(),
        base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        f"data:image/png;base64,{base64.encodebytes(PNG).decode()}",
        PIXELS,
        PIXELS[None].tolist(),
        PIXELS[:, :, None].astype(float).tolist(),
        PIXELS.ravel().tolist(),
        np.repeat(PIXELS[:, :, None], 3, axis=2),
    ],
    ids=["bytes", "base64", "url", "data", "array", "chw", "hwc", "flat", "rgb"],
)
def test_a_picture_in_any_form_is_the_same(item: Any) -> None:
    found = read_given([item, PNG], GREY)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.from_numpy(PIXELS).expand(2, 1, 8, 8))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_files_are_read_as_those_of_a_folder(kind: str, tmp_path: Any) -> None:
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8))
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(file(image, kind))
    assert torch.equal(read_given([path.read_bytes()], COLOUR), read_images([path], (3, 6, 4)))
    if kind == "PPM":
        assert torch.equal(
            read_given([np.asarray(image).tolist()], COLOUR), read_images([path], (3, 6, 4))
        )


def test_rows_of_numbers() -> None:
    found = read_given([[1, None, 2.5], np.array([1.0, 2.0, float("nan")])], ROWS)
    assert torch.equal(found.nan_to_num(-1), torch.tensor([[1, -1, 2.5], [1, 2, -1]]))


MASKS = np.random.default_rng(2).random((60, 8, 8)) < 0.3


@pytest.mark.parametrize("kind", [bool, np.float32, np.int64, np.uint8, "255"])
def test_pictures_of_two_values_are_what_the_network_was_trained_on(kind: Any, tmp_path: Any):
    x = MASKS * np.uint8(255) if kind == "255" else MASKS.astype(kind)
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(60) % 2)
    spec = DatasetSpec(name="arrays", path=str(tmp_path / "set.npz"))
    data = load_dataset(spec, places(tmp_path))
    rows = [int(name) for name in data.train.ids]
    for other in (bool, np.float32, np.int64):
        np.savez(tmp_path / "new.npz", x=MASKS[rows].astype(other))
        for found in (
            read_given(list(MASKS[rows].astype(other)), data.preprocessing),
            read_given(MASKS[rows].astype(other).tolist(), data.preprocessing),
            read_rows(tmp_path / "new.npz", data.preprocessing)[0],
        ):
            assert torch.equal(found, data.train.examples.tensor)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_a_picture_of_0_and_1_is_refused_where_it_may_be_dark_or_black_and_white(
    kind: Any, tmp_path: Any
) -> None:
    dark = np.zeros((1, 8, 8), kind)
    assert not read_given([dark], GREY).any(), "black is black"
    dark[0, 0, 0] = 1
    np.savez(tmp_path / "new.npz", x=dark)
    for read in (lambda: read_given([dark], GREY), lambda: read_rows(tmp_path / "new.npz", GREY)):
        with pytest.raises(DataError, match=r"0 and 1 alone.* where 1 is white, else"):
            read()
    bright = np.arange(64).reshape(8, 8).tolist()
    assert read_given([dark, bright], GREY)[0].max() == 1, "as both are in a file: bytes"
    with pytest.raises(DataError, match="Example 2 of 2 holds 0 and 1 alone"):
        read_given([PNG, dark], GREY)
    assert read_given([dark.astype(np.uint8)], GREY).max() == 1
    assert read_given([dark.astype(bool)], GREY).max() == 255
    np.savez(tmp_path / "new.npz", x=(np.arange(64).reshape(1, 8, 8)).astype(kind))
    assert read_rows(tmp_path / "new.npz", GREY)[0].max() == 63


def test_two_values_are_told_by_mean_and_deviation() -> None:
    rng = np.random.default_rng(3)
    for share in (0.001, 0.02, 0.5, 0.9):
        for white in (255, 1):
            pixels = (rng.random((40, 1, 16, 16)) < share) * np.uint8(white)
            takes = preprocessing_of(Resident.whole(torch.from_numpy(pixels)))[0]
            assert white_of(takes) == white
            pixels[0, 0, 0, 0] = 100
            takes = preprocessing_of(Resident.whole(torch.from_numpy(pixels)))[0]
            assert white_of(takes) is None
    half = Preprocessing(shape=(3, 8, 8), dtype="uint8", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert white_of(half) is None


def bomb(side: int) -> bytes:
    """A picture of side² black pixels in a few kilobytes."""
    rows = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    content = b"".join([*(rows.compress(row) for _ in range(side)), rows.flush()])
    made = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    for kind, body in {b"IHDR": head, b"IDAT": content, b"IEND": b""}.items():
        made += struct.pack(">I", len(body)) + kind + body
        made += struct.pack(">I", zlib.crc32(kind + body))
    return made


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"


@pytest.mark.parametrize(
    ("item", "takes", "sentence"),
    [
        (bomb(11_000), GREY, "11000 x 11000 pixels are more than the 33554432 that are read"),
        (PNG[:40], GREY, "Example 1 of 1 cannot be read"),
        (b"", GREY, "no image that is read here"),
        (POSTSCRIPT, GREY, "no image that is read here"),
        ("/etc/hostname", GREY, "cannot be read|no base64"),
        ("http://127.0.0.1/picture.png", GREY, "text that is no base64"),
        ("é", GREY, "text that is no base64"),
        ([[256]], GREY, "the whole ones from 0 to 255"),
        ([[-1]], GREY, "the whole ones from 0 to 255"),
        ((PIXELS / 255).tolist(), GREY, "pixels as they are in an image file"),
        ([[float("nan")]], GREY, "the whole ones from 0 to 255"),
        ([[10**400]], GREY, "no array of numbers"),
        ([[1, 2], [3]], GREY, "no array of numbers"),
        ({"a": 1}, GREY, "no array of numbers"),
        (None, GREY, "no array of numbers"),
        ([], GREY, "no array of numbers"),
        (7, GREY, r"has shape \[\]: give numbers of shape \[1, 8, 8\]"),
        (np.zeros((2, 4, 4), np.uint8), GREY, r"has shape \[2, 4, 4\]"),
        ([1, 2], ROWS, r"has shape \[2\]: give 3 numbers"),
        ([1, 2, 1e300], ROWS, "infinite values, or ones above 3e38"),
        ([1, 2, float("inf")], ROWS, "infinite values"),
        (PNG, ROWS, "takes rows of 3 numbers"),
    ],
)
def test_what_is_refused(item: Any, takes: Preprocessing, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        read_given([item], takes)
    assert len(str(caught.value).splitlines()) == 1


def test_many_large_pictures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IN_ALL", 3 * 64)
    assert len(read_given([PNG] * 3, GREY)) == 3
    with pytest.raises(ImageError, match="Example 4 of 4 cannot be read: its 8 x 8 pixels and"):
        read_given([PNG] * 4, GREY)
    with pytest.raises(DataError, match="nothing to predict"):
        read_given([], GREY)
