"""Layouts that people have: names of parts, Unicode forms, files that are left unread."""

from __future__ import annotations

import shutil
import sys
import types
import unicodedata
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from modkernel.data import images as images_module
from modkernel.data import load_dataset, read_labels, read_pairs
from modkernel.data.layout import find_file
from modkernel.errors import ClassError, DataError, ImageError
from modkernel.reuse.task import parse_task
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import (
    folder_spec,
    image_folder,
    noticed,
    npz,
    picture,
    places,
)


def load(root, tmp_path, **options):
    return load_dataset(folder_spec(root, **options), places(tmp_path))


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "val", None),
        ("training", None, "Test"),
    ],
)
def test_parts_have_many_names(tmp_path, train, val, test):
    counts = {f"{train}/{name}": 8 for name in "ab"}
    counts |= {f"{part}/{name}": 3 for part in (val, test) if part for name in "ab"}
    root = image_folder(tmp_path / "set", counts)
    for name in ("__MACOSX", ".git"):
        image_folder(root, {f"{name}/a": 1})
    for place in (root, root / train, root / train / "a"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
            (place / name).write_bytes(b"x")
    data = load(root, tmp_path)
    assert data.classes == ("a", "b")
    assert noticed(data) == []
    if val:
        assert list(data.validation.ids) == [
            f"{val}/{c}/{i:03d}.png" for c in "ab" for i in range(3)
        ]
    if test:
        assert list(data.test.ids) == [f"{test}/{c}/{i:03d}.png" for c in "ab" for i in range(3)]


def test_parts_that_are_there_twice_or_beside_other_folders(tmp_path):
    root = image_folder(tmp_path / "set", {"train/a": 5, "train/b": 5, "val/a": 2, "valid/b": 2})
    with pytest.raises(DataError, match="'val' and 'valid', which name the same part"):
        load(root, tmp_path)
    (root / "valid").rename(root / "extra")
    with pytest.raises(DataError, match=r"parts train, val, and beside them extra"):
        load(root, tmp_path)
    outer = tmp_path / "outer"
    shutil.move(root, outer / "set")
    with pytest.raises(DataError, match=r"set dataset\.path to .*outer/set"):
        load(outer, tmp_path)


def test_parts_that_lack_chosen_classes_are_named(tmp_path):
    root = image_folder(
        tmp_path / "set",
        {"train/a": 9, "train/b": 9, "train/c": 9, "valid/a": 2, "valid/b": 2, "test/a": 2},
    )
    texts = [finding.text for finding in load(root, tmp_path).findings]
    assert "(c) has fewer than 2 examples in the validation part" in texts[0]
    assert texts[0].endswith(f"Add examples to {root / 'valid'}.")
    assert "(b, c) have no example in the test part" in texts[1]
    assert texts[1].endswith(f"Add examples to {root / 'test'}.")
    wrong = r"own validation part, .*set/valid, has 2 examples, .*\(a, c\) only class 'a'"
    with pytest.raises(DataError, match=wrong):
        load(root, tmp_path, classes=("a", "c"))
    with pytest.raises(DataError, match=r"set/valid, has .*\(one, two\) only class 'two'"):
        load(root, tmp_path, groups={"one": ("c",), "two": ("a", "b")})


def test_unicode_forms_of_one_name_match_everywhere(tmp_path):
    root = image_folder(tmp_path / "set", {nfd("café"): 20, nfd("thé"): 20})
    for name in ("café", "thé"):
        (root / nfd(name) / "000.png").rename(root / nfd(name) / nfd("é.png"))
    for form in (nfd, str):
        data = load(root, tmp_path, classes=(form("thé"), form("café")))
        assert data.classes == ("thé", "café")
    assert load(root, tmp_path).classes == ("café", "thé")
    part = data.training_part()
    assert "café/é.png" in {*part.ids, *data.test.ids}
    held = list(data.test.ids)
    first, second, third = (nfd(name) for name in part.ids[:3])
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"{first},{second},1\n{(root / second).absolute()},{third},0\n")
    assert len(read_pairs(pairs, part.ids, root, held).same) == 2
    labels = tmp_path / "labels.csv"
    names = [part.ids[0], part.ids[-1]]
    labels.write_text("".join(f"{nfd(n)},{nfd(n.split('/')[0])}\n" for n in names))
    assert read_labels(labels, part.ids, data.classes, root, held).rows.tolist() == [
        0,
        len(part) - 1,
    ]
    assert parse_task(f"{nfd('thé')}, café").assign(data.classes).tolist() == [0, 1]
    for name in part.ids:
        assert find_file(root, name).is_file()
    assert find_file(root, "gone/x.png") == root / "gone" / "x.png"


def test_unicode_forms_in_arrays_and_names_that_become_one(tmp_path):
    y = np.array([nfd("café"), "café", "thé", nfd("thé")] * 10)
    x = np.random.default_rng(0).normal(size=(40, 3))
    spec = DatasetSpec(name="arrays", path=str(npz(tmp_path / "a.npz", x=x, y=y)))
    assert load_dataset(spec, places(tmp_path)).classes == ("café", "thé")
    root = image_folder(tmp_path / "set", {nfd("café"): 5, "café": 5, "b": 5})
    with pytest.raises(DataError, match=r"two entries named 'café', in different Unicode forms"):
        load(root, tmp_path)
    with pytest.raises(ValueError, match="named more than once"):
        DatasetSpec(groups={nfd("é"): ("a",), "é": ("b",)})
    with pytest.raises(ClassError, match="named more than once"):
        load(image_folder(tmp_path / "c", {"é": 5, "b": 5}), tmp_path, classes=("é", nfd("é")))


def test_jfif_and_jpe_are_read(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5}, suffix="jpg")
    for i, suffix in enumerate(("jfif", "JPE", "JFIF")):
        (root / "a" / f"{i:03d}.jpg").rename(root / "a" / f"{i:03d}.{suffix}")
    data = load(root, tmp_path)
    assert noticed(data) == []
    assert len(data.training_part()) + len(data.test) == 10


def test_files_of_other_types_are_told_by_folder(tmp_path):
    root = image_folder(tmp_path / "set", {"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    for name in ("train/a/1.mp4", "train/a/2.mp4", "train/a/x.psd", "test/b/noname", "notes.txt"):
        (root / name).write_bytes(b"x")
    (finding,) = noticed(load(root, tmp_path))
    assert (finding.kind, finding.count) == ("skipped", 5)
    assert "5 files are not read" in finding.text
    assert "2 .mp4 and 1 .psd in train/a" in finding.text
    assert "1 .txt at the top" in finding.text
    assert "1 without a suffix in test/b" in finding.text
    assert "Save frames of videos as images." in finding.text
    (root / "train/a/3.mp4").write_bytes(b"x")
    assert noticed(load(root, tmp_path))[0].count == 6


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_is_told_and_read_once_the_plugin_is_there(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "set", {"a": 12, "b": 12})
    for i in range(4):
        (root / "a" / f"{i:03d}.png").rename(root / "a" / f"{i:03d}.heic")
    (finding,) = noticed(load(root, tmp_path))
    assert finding.text.startswith("4 files are not read")
    assert "4 .heic in a" in finding.text
    assert finding.text.endswith("pip install pillow-heif.")
    for path in (root / "a").glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"a holds no images, but 4 \.heic \(.*pillow-heif\)"):
        load(root, tmp_path)
    # Pillow knows these as PNG by their content: what is tested is when the plugin is asked.
    asked = []
    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: asked.append(1)  # type: ignore[attr-defined]
    plugin.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    images_module._know_heif.cache_clear()
    data = load(root, tmp_path)
    images_module._know_heif.cache_clear()
    assert asked == [1]
    assert sum(name.endswith(".heic") for name in (*data.training_part().ids, *data.test.ids)) == 4


def test_avif_is_read_where_pillow_can(tmp_path, monkeypatch):
    from modkernel.data import file_kinds

    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    can = file_kinds._reads_avif()
    if can:
        picture(77).save(root / "a" / "x.avif")
        data = load(root, tmp_path)
        assert "a/x.avif" in {*data.training_part().ids, *data.test.ids}
    (root / "a" / "x.avif").write_bytes(b"")
    monkeypatch.setattr(file_kinds, "_reads_avif", lambda: False)
    (finding,) = noticed(load(root, tmp_path))
    assert "1 .avif in a" in finding.text
    assert "pip install -U pillow" in finding.text


@pytest.mark.parametrize("kind", ["tif", "gif", "webp", "png"])
def test_files_of_several_images_are_refused_by_name_and_number(tmp_path, kind):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    for name in ("one", "two"):
        picture(1).save(
            root / "a" / f"{name}.{kind}",
            save_all=True,
            append_images=[picture(2), picture(3)],
            **({"duration": 50} if kind != "tif" else {}),
        )
    with pytest.raises(
        ImageError, match=r"Cannot read 2 images: .*one.*3 pages or frames"
    ) as caught:
        load(root, tmp_path)
    assert f"two.{kind}" in str(caught.value)


def test_a_thumbnail_in_a_tiff_and_a_preview_in_a_photo_are_no_pages(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    thumbnail = picture(2, (4, 3))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    picture(1).save(root / "a" / "x.tif", save_all=True, append_images=[thumbnail])
    picture(3).save(root / "a" / "y.jpg", format="MPO", save_all=True, append_images=[picture(4)])
    with Image.open(root / "a" / "x.tif") as image:
        assert image.n_frames == 2
    with Image.open(root / "a" / "y.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    data = load(root, tmp_path)
    assert {"a/x.tif", "a/y.jpg"} <= {*data.training_part().ids, *data.test.ids}


def broken_ways(path, whole: bytes) -> list[str]:
    """Files that cannot be read for different reasons, by name."""
    contents = {
        "0empty.png": b"",
        "1text.png": b"no image",
        "2header.png": b"\x89PNG\r\n\x1a\n" + whole[20:],
        "3cut.jpg": None,
        "4flipped.png": whole[:60] + b"\0\0\0\0" + whole[64:],
    }
    picture(8, (64, 64)).save(path / "3cut.jpg")
    contents["3cut.jpg"] = (path / "3cut.jpg").read_bytes()[:900]
    for name, content in contents.items():
        (path / name).write_bytes(content)
    return list(contents)


@pytest.mark.parametrize("limit", [None, 0], ids=["resident", "streamed"])
@pytest.mark.parametrize("only_decoding", [False, True])
def test_all_broken_files_are_named_at_once(tmp_path, limit, only_decoding):
    root = image_folder(tmp_path / "set", {"a": 12, "b": 12})
    picture(9, (64, 64)).save(root / "a" / "whole.png")
    names = broken_ways(root / "b", (root / "a" / "whole.png").read_bytes())
    if only_decoding:
        for name in names[:3]:
            (root / "b" / name).unlink()
        names = names[3:]
    (root / "a" / "whole.png").unlink()
    with pytest.raises(ImageError) as caught:
        load_dataset(folder_spec(root, image_size=8), places(tmp_path), limit)
    text = str(caught.value)
    assert text.startswith(f"Cannot read {len(names)} images: ")
    assert all(str(root / "b" / name) in text for name in names)
    assert "\n" not in text


def test_of_many_broken_files_the_first_are_named_and_all_counted(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    for i in range(30):
        (root / "a" / f"x{i:02d}.png").write_bytes(b"")
    with pytest.raises(
        ImageError, match=r"Cannot read 30 images: .*x19\.png.*; and 10 more\."
    ) as e:
        load(root, tmp_path)
    assert "x20.png" not in str(e.value)
