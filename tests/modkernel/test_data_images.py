from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modkernel.data import read_images
from modkernel.data.images import file_facts, fit_tensor, map_files
from modkernel.errors import ImageError, InterfaceError
from tests.modkernel.helpers.data_made import picture


def as_chw(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).movedim(-1, 0)


def test_images_come_in_order_as_they_are(tmp_path):
    images = [picture(seed) for seed in range(5)]
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    out = read_images(paths[::-1], (3, 6, 8))
    assert out.dtype == torch.uint8
    assert torch.equal(out, torch.stack([as_chw(image) for image in images[::-1]]))
    assert read_images([], (3, 6, 8)).shape == (0, 3, 6, 8)


def test_large_files_are_read_in_threads_to_the_same_result(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.jpg" for i in range(40)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    alone = read_images(paths, (3, 6, 8))
    monkeypatch.setattr("modkernel.data.images.WORTH_A_THREAD", 0)
    monkeypatch.setattr("modkernel.data.images.AHEAD", 16)
    assert torch.equal(read_images(paths, (3, 6, 8)), alone)
    paths[20].write_bytes(b"")
    with pytest.raises(ImageError, match=r"20\.jpg"):
        list(map_files(file_facts, paths))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_is_converted(tmp_path, mode, channels):
    image = picture(0)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path)
    out = read_images([path], (channels, 6, 8))
    assert out.shape == (1, channels, 6, 8)
    if mode in ("L", "LA", "I;16"):
        grey = torch.from_numpy(np.array(picture(0).convert("L")))
        assert torch.equal(out[0], grey.expand(channels, 6, 8))


def test_a_palette_with_transparency_gives_no_warning(tmp_path):
    path = tmp_path / "image.png"
    picture(0).convert("P").save(path, transparency=bytes(range(256)))
    assert read_images([path], (3, 6, 8)).shape == (1, 3, 6, 8)


def test_other_sizes_are_resized_with_antialiasing(tmp_path):
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[::2] = 255
    path = tmp_path / "stripes.png"
    Image.fromarray(stripes).save(path)
    out = read_images([path], (1, 8, 16)).float()
    assert out.shape == (1, 1, 8, 16)
    assert (out - 127.5).abs().max() < 16


def test_tensors_are_fitted_just_as_files_are(tmp_path):
    path = tmp_path / "image.png"
    picture(0).save(path)
    for shape in ((3, 6, 8), (1, 6, 8), (3, 5, 5), (1, 12, 12)):
        fitted = fit_tensor(as_chw(picture(0))[None], shape)
        assert torch.equal(fitted, read_images([path], shape))
    grey = as_chw(picture(0))[:1]
    assert torch.equal(fit_tensor(grey[None], (3, 6, 8))[0], grey.expand(3, 6, 8))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_images_are_turned_upright(tmp_path, kind):
    image, path = picture(0), tmp_path / f"turned.{kind}"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image.save(path, exif=exif)
    facts = file_facts(path)
    assert (facts.width, facts.height) == (6, 8)
    upright = as_chw(image.transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(read_images([path], (3, 8, 6))[0], upright)


def damaged(path, content: bytes):
    path.write_bytes(content)
    return path


def test_unreadable_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    picture(0, (64, 64)).save(whole)
    content = whole.read_bytes()
    depth = tmp_path / "depth.tif"
    Image.fromarray(np.zeros((6, 8), dtype=np.float32)).save(depth)
    for path in (
        tmp_path / "missing.png",
        damaged(tmp_path / "empty.png", b""),
        damaged(tmp_path / "text.jpg", b"no image"),
        damaged(tmp_path / "cut.png", content[: len(content) // 2]),
        damaged(tmp_path / "flipped.png", content[:60] + b"\0\0\0\0" + content[64:]),
        depth,
        tmp_path,
    ):
        with pytest.raises(ImageError) as caught:
            read_images([whole, path], (3, 64, 64))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("shape", [(10,), (2, 8, 8), (3, 8)])
def test_networks_that_take_no_images(tmp_path, shape):
    with pytest.raises(InterfaceError, match=r"takes \[1, H, W\]"):
        read_images([tmp_path / "any.png"], shape)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_177_million_pixels_in_21_kilobytes(tmp_path, monkeypatch):
    side, path = 13_300, tmp_path / "bomb.png"
    rows = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    content = b"".join([*(rows.compress(row) for _ in range(side)), rows.flush()])
    parts = {b"IHDR": struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), b"IDAT": content}
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in (parts | {b"IEND": b""}).items():
            file.write(struct.pack(">I", len(body)) + kind + body)
            file.write(struct.pack(">I", zlib.crc32(kind + body)))
    assert path.stat().st_size < 30_000
    monkeypatch.setattr("modkernel.data.images.free_memory", lambda: 2 << 30)
    monkeypatch.setattr("modkernel.data.images.usable_cores", lambda: 2)
    with pytest.raises(ImageError, match=r"its 13300 x 13300 pixels are more than .* smaller"):
        read_images([path], (1, 8, 8))


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (2000, 1500)).save(path)
    assert path.stat().st_size < 2000
    whole = read_images([path], (1, 8, 8))
    monkeypatch.setattr("modkernel.data.images.free_memory", lambda: 40_000_000)
    for read in (file_facts, lambda path: read_images([path], (1, 8, 8))):
        with pytest.raises(ImageError, match=r"bomb\.png: its 2000 x 1500 pixels are more than"):
            read(path)
    monkeypatch.setattr("modkernel.data.images.free_memory", lambda: 1 << 40)
    assert torch.equal(read_images([path], (1, 8, 8)), whole)
