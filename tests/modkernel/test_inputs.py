"""What is to be predicted: which files of a folder, in which order, and how many at a time."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from modkernel.data import inputs
from modkernel.data.broken import unreadable
from modkernel.data.images import read_images
from modkernel.data.inputs import find_inputs, read_inputs
from modkernel.errors import DataError
from modkernel.spec import Preprocessing

GREY = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.3,), std=(0.2,))
ROWS = Preprocessing(shape=(3,), dtype="float32", mean=(0.0,), std=(1.0,))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("b/2.png", "b/10.jpg", "a/x.png", "c.png", ".hidden/x.png", "b/.x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 7), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b" / "readme.md").write_text("")
    return tmp_path


def test_images_of_a_folder_and_below(folder):
    files, (finding,) = find_inputs([folder / "c.png", folder], GREY)
    names = [str(file.relative_to(folder)) for file in files]
    assert names == ["c.png", "c.png", "a/x.png", "b/10.jpg", "b/2.png"]
    assert "1 file is not read" in finding.text
    with pytest.raises(DataError, match="this network takes rows of 3 numbers"):
        find_inputs([folder], ROWS)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no images"):
        find_inputs([folder / "empty"], GREY)


def test_linked_folders_are_read_as_in_training_and_each_once(folder):
    (folder / "a" / "others").symlink_to(folder / ".hidden")
    (folder / "b" / "up").symlink_to(folder)
    os.mkfifo(folder / "a" / "pipe.png")
    files, (finding,) = find_inputs([folder], GREY)
    names = [str(file.relative_to(folder)) for file in files]
    assert names == ["c.png", "a/x.png", "a/others/x.png", "b/10.jpg", "b/2.png"]
    assert "3 files are not read" in finding.text


def test_a_batch_at_a_time_in_order(folder, monkeypatch):
    monkeypatch.setattr(inputs, "BATCH", 3)
    broken, arrays = folder / "broken.png", folder / "pictures.npz"
    broken.write_bytes(b"")
    pictures = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(arrays, x=pictures)
    images = [folder / name for name in ("c.png", "a/x.png", "b/2.png")]
    files = [images[0], broken, images[1], images[2], arrays, images[0]]
    batches = list(read_inputs(files, GREY))
    assert [len(batch.names) for batch in batches] == [2, 1, 3, 1, 1]
    assert sum(batch.files for batch in batches) == len(files)
    assert [each.path for batch in batches for each in batch.broken] == [broken]
    assert batches[2].names == tuple(f"{arrays}:{i}" for i in range(3))
    read = torch.cat([batch.examples for batch in batches])
    as_images = read_images([*images, images[0]], (1, 8, 8))
    expected = torch.cat([as_images[:3], torch.from_numpy(pictures)[:, None], as_images[3:]])
    assert torch.equal(read, expected)


def test_files_that_do_not_go_with_the_network_are_named_with_what_it_takes(tmp_path):
    vectors, pictures = tmp_path / "vec.npz", tmp_path / "pic.npz"
    np.savez(vectors, x=np.zeros((300, 8), np.float32))
    np.savez(pictures, x=np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "rows.csv").write_text("a\n1\n")
    with pytest.raises(DataError) as caught:
        list(read_inputs([vectors], GREY))
    assert str(caught.value) == (
        f"x of {vectors} has rows of 8 numbers, and this network takes pictures [1, 8, 8]: name "
        "image files, or files of arrays with pictures as 'x'."
    )
    for file, held in ((pictures, r"pictures \[1, 8, 8\]"), (vectors, "rows of 8 numbers")):
        sentence = (
            rf"{file.name} has {held}, and this network takes rows of 3 numbers: give the col"
        )
        with pytest.raises(DataError, match=sentence):
            list(read_inputs([file], ROWS))
    with pytest.raises(DataError, match=r"rows\.csv is a table, and this network takes pictures"):
        find_inputs([tmp_path / "rows.csv"], GREY)


def test_a_file_that_is_not_there_is_said_not_to_be_there(tmp_path):
    for name, takes in (("nix.npz", GREY), ("nix.npz", ROWS), ("nix.csv", ROWS)):
        with pytest.raises(DataError, match=f"There is no file .*{name}: correct its path"):
            list(read_inputs([tmp_path / name], takes))
    (batch,) = read_inputs([tmp_path / "nix.png"], GREY)
    sentence = f"There is no file {tmp_path / 'nix.png'}: correct its path, or leave it out."
    assert str(unreadable(batch.broken)) == sentence


def test_pictures_of_another_size_in_arrays_are_resized(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (2, 20, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=colour)
    (batch,) = read_inputs([tmp_path / "x.npz"], GREY)
    for i, picture in enumerate(colour):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    assert torch.equal(batch.examples, read_images(files, (1, 8, 8)))
