from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from modkernel.data import Dataset, folder, load_dataset, read_images
from modkernel.data import load as load_module
from modkernel.data.images import try_facts
from modkernel.data.layout import read_layout
from modkernel.errors import ClassError, DataError, ImageError
from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.data_made import all_pixels, folder_spec, image_folder, picture, places


def load(root, tmp_path, **options) -> Dataset:
    spec = DatasetSpec(name="image_folder", path=str(root), **options)
    return load_dataset(spec, places(tmp_path))


def check_pixels(data: Dataset, root) -> None:
    for split in (data.train, data.validation, data.test):
        images = split.examples.batch(torch.arange(len(split)))
        assert torch.equal(images, read_images([root / i for i in split.ids], split.examples.shape))


def test_class_folders_are_split(tmp_path):
    root = image_folder(tmp_path / "set", {"bee": 30, "ant": 40})
    data = load(root, tmp_path)
    assert data.classes == ("ant", "bee")
    assert len(data.training_part()) + len(data.test) == 70
    assert len(data.train) > len(data.test) > 0 < len(data.validation)
    assert data.train.examples.shape == data.preprocessing.shape == (3, 6, 8)
    for split in (data.train, data.validation, data.test):
        assert [data.classes[label] for label in split.labels] == [i[:3] for i in split.ids]
    check_pixels(data, root)


def test_parts_of_their_own(tmp_path):
    root = image_folder(
        tmp_path / "set",
        {"train/a": 26, "train/b": 25, "val/a": 1, "val/b": 2, "test/b": 3, "test/a": 1},
    )
    data = load(root, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (51, 3, 4)
    assert list(data.validation.ids) == ["val/a/000.png", "val/b/000.png", "val/b/001.png"]
    assert data.test.labels.tolist() == [0, 1, 1, 1]
    check_pixels(data, root)
    shutil.rmtree(root / "val")
    data = load(root, tmp_path)
    assert (len(data.training_part()), len(data.test)) == (51, 4)
    assert len(data.validation) > 0
    shutil.rmtree(root / "test")
    data = load(root, tmp_path)
    assert len(data.training_part()) + len(data.test) == 51
    assert len(data.test) > 0


def test_classes_that_are_named_like_parts(tmp_path):
    root = image_folder(tmp_path / "set", {"train": 5, "plane": 5})
    assert load(root, tmp_path).classes == ("plane", "train")


def test_a_subset_reads_no_other_class(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 9, "b": 9, "c": 9})
    (root / "b" / "broken.png").write_bytes(b"")
    data = load(root, tmp_path, classes=("c", "a"))
    assert data.classes == ("c", "a")
    for split in (data.train, data.validation, data.test):
        assert [data.classes[label] for label in split.labels] == [i[0] for i in split.ids]


def test_hidden_and_other_files_do_not_count(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5, ".hidden": 5})
    (root / "README.txt").write_text("about")
    (root / "a" / "Thumbs.db").write_bytes(b"")
    (root / "a" / ".half.png").write_bytes(b"")
    data = load(root, tmp_path)
    assert len(data.training_part()) + len(data.test) == 10


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "bmp", "gif", "webp", "tiff", "ppm"])
def test_types_of_file(tmp_path, suffix):
    root = image_folder(tmp_path / "set", {"a": 4, "b": 4}, suffix=suffix)
    check_pixels(load(root, tmp_path), root)


@pytest.mark.parametrize(
    ("modes", "wanted", "channels"),
    [("LL", None, 1), ("LR", None, 3), ("RR", None, 3), ("LL", 3, 3), ("RR", 1, 1), ("LR", 1, 1)],
)
def test_channels(tmp_path, modes, wanted, channels):
    root = tmp_path / "set"
    for name, mode in zip("ab", modes, strict=True):
        image_folder(root, {name: 4}, mode="L" if mode == "L" else "RGB")
    data = load(root, tmp_path, channels=wanted)
    assert data.train.examples.shape == (channels, 6, 8)
    check_pixels(data, root)


def test_sizes(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 4, "b": 4})
    picture(0, (9, 6)).save(root / "b" / "other.png")
    with pytest.raises(
        DataError, match=r"b/other.png has 9 x 6\. Set dataset.image_size"
    ) as caught:
        load(root, tmp_path)
    assert "8 x 6" in str(caught.value)
    data = load(root, tmp_path, image_size=16)
    assert data.train.examples.shape == (3, 16, 16)
    check_pixels(data, root)


@pytest.mark.parametrize(("size", "mode"), [((16, 24), "L"), ((40, 5), "RGB"), ((9, 9), "L")])
def test_other_images_are_read_at_a_module_s_own_height_and_width(tmp_path, size, mode):
    """Width and height, as the picture library has them."""
    counts = {"a": 12, "b": 12}
    first = image_folder(tmp_path / "first", counts, size, mode)
    own = load_dataset(folder_spec(first), places(tmp_path)).preprocessing
    assert own.shape == (1 if mode == "L" else 3, size[1], size[0])
    other = image_folder(tmp_path / "other", counts, (7, 30), seed=99)
    data = load_dataset(folder_spec(other, **own.image_fields()), places(tmp_path))
    assert data.preprocessing.shape == own.shape
    sides = folder_spec(other, image_size=f"{size[1]}x{size[0]}").side_lengths()
    assert sides == own.shape[1:]


def test_images_without_classes(tmp_path):
    root = image_folder(tmp_path, {"set": 12})  # straight into the folder
    data = load(root / "set", tmp_path)
    assert data.classes == ()
    assert data.train.labels is None
    assert len(data.test) == 0
    assert sorted(data.training_part().ids) == [f"{i:03d}.png" for i in range(12)]
    check_pixels(data, root / "set")
    with pytest.raises(ClassError, match="no labels"):
        load(root / "set", tmp_path, classes=("a", "b"))


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut"])
def test_a_corrupt_image_is_named(tmp_path, content):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    path = root / "b" / "003.png"
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    with pytest.raises(ImageError) as caught:
        load(root, tmp_path)
    assert str(path) in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not list((tmp_path / "cache" / "info").rglob("*"))


def test_a_link_to_nowhere_is_named(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match=r"link\.png"):
        load(root, tmp_path)


def test_a_link_to_nowhere_hides_no_other_broken_file(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "link.png").symlink_to(tmp_path / "nowhere.png")
    (root / "a" / "001.png").write_bytes(b"")
    # Its header is whole: that it is cut off shows when it is decoded.
    cut = root / "b" / "003.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    told = (
        r"^Cannot read 3 images: .*001\.png: .*link\.png: No such file .*003\.png: .*the files\.$"
    )
    with pytest.raises(ImageError, match=told):
        load(root, tmp_path)
    with pytest.raises(ImageError, match=told):
        read_layout(root)


def test_links_in_a_circle_and_pipes_are_named(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "b" / "pipe.png")
    with pytest.raises(ImageError, match=r"loop\.png: .*pipe\.png: no file, but a pipe"):
        load(root, tmp_path)
    (root / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"Cannot read .*/loop: .*Correct or remove it"):
        load(root, tmp_path)


def test_files_beside_a_broken_one_are_hashed_once(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    looked = []
    monkeypatch.setattr(folder, "try_facts", lambda path: looked.append(path) or try_facts(path))
    whole = (root / "a" / "001.png").read_bytes()
    (root / "a" / "001.png").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ImageError, match=r"001\.png"):
            load(root, tmp_path)
    (root / "a" / "001.png").write_bytes(whole)
    load(root, tmp_path)
    assert len(looked) == 10 + 1 + 1


def test_wrong_folders(tmp_path):
    root = tmp_path / "set"
    with pytest.raises(DataError, match="no file or folder on host"):
        load(root, tmp_path)
    with pytest.raises(DataError, match=r"set dataset\.path"):
        load_dataset(DatasetSpec(name="image_folder"), places(tmp_path))
    root.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load(root, tmp_path)
    image_folder(root, {"a": 5, "b": 5})
    (root / "c").mkdir()
    with pytest.raises(DataError, match=r"Class folder .*c holds no images"):
        load(root, tmp_path)
    assert load(root, tmp_path, unlabelled="c").classes == ("a", "b"), "all have a label by now"
    image_folder(root, {"c/nested": 5})
    with pytest.raises(DataError, match="has the folder 'nested' in it"):
        load(root, tmp_path)
    shutil.rmtree(root / "c")
    picture(0).save(root / "stray.png")
    with pytest.raises(DataError, match=r"both folders and images \(stray.png\)"):
        load(root, tmp_path)
    with pytest.raises(DataError, match="Not a directory"):
        load(root / "stray.png", tmp_path)


@pytest.mark.parametrize("sign", ["\n", "\t", "\x1b"])
def test_a_class_whose_name_no_line_shows_is_refused(tmp_path, sign):
    root = image_folder(tmp_path / "set", {f"a{sign}b": 5, "c": 5})
    with pytest.raises(ClassError, match="has control characters"):
        load(root, tmp_path)


def test_parts_that_do_not_match(tmp_path):
    root = image_folder(tmp_path / "set", {"train/a": 5, "train/b": 5, "test/c": 5})
    with pytest.raises(ClassError, match="'c'"):
        load(root, tmp_path)
    shutil.rmtree(root / "test")
    image_folder(root, {"test": 5})
    with pytest.raises(ClassError, match="images without a class"):
        load(root, tmp_path)
    shutil.rmtree(root / "train")
    image_folder(root, {"train": 5})
    data = load(root, tmp_path)
    assert (len(data.test), len(data.training_part())) == (5, 5)


def test_a_single_class(tmp_path):
    with pytest.raises(ClassError, match="At least two classes"):
        load(image_folder(tmp_path / "set", {"a": 5}), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        load(root, tmp_path)


def test_an_unreadable_folder_for_root_too(tmp_path, monkeypatch):
    root = image_folder(tmp_path / "set", {"a": 5, "b": 5})

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("modkernel.data.folder.os.scandir", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        load(root, tmp_path)


def test_mean_and_std_are_those_of_the_training_split(tmp_path):
    root = image_folder(tmp_path / "set", {"a": 8, "b": 8})
    for i in range(4):
        Image.fromarray(np.full((6, 8, 3), (0, 128, 255), np.uint8)).save(root / f"a/x{i}.png")
    data = load(root, tmp_path)
    pixels = data.train.examples.batch(torch.arange(len(data.train))).double() / 255
    assert data.preprocessing.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    std = pixels.std((0, 2, 3), correction=0).tolist()
    assert data.preprocessing.std == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize("limit", [None, 0], ids=["in memory", "streamed"])
def test_a_picture_that_is_replaced_while_the_folder_is_read(tmp_path, monkeypatch, limit):
    root = image_folder(tmp_path / "d", {"a": 20, "b": 20})
    victim = root / "a" / "000.png"
    good, fingerprint_of = victim.read_bytes(), load_module.fingerprint_of

    def meanwhile(*given):
        Image.new("RGB", (8, 6), (255, 0, 0)).save(victim)
        return fingerprint_of(*given)

    monkeypatch.setattr(load_module, "fingerprint_of", meanwhile)
    with pytest.raises(ImageError, match=r"1 image\(s\) of .* changed since .* such as a/000\.png"):
        load_dataset(folder_spec(root), places(tmp_path), resident_limit=limit)
    monkeypatch.undo()
    victim.write_bytes(good)
    data = load_dataset(folder_spec(root), places(tmp_path), resident_limit=limit)
    clean = load_dataset(folder_spec(root), places(tmp_path / "clean"))
    assert data.fingerprint == clean.fingerprint
    assert data.preprocessing == clean.preprocessing
    assert torch.equal(all_pixels(data), all_pixels(clean))
