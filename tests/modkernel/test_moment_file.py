"""Files of moments: exact, the same bytes always, whole or not there, and checked when read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modkernel.errors import ArtifactError
from modkernel.modules.stored import _sha256
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import read_moments, write_moments
from tests.modkernel.helpers.feature_examples import features_of, moments_of

MAKE = """
import sys
from pathlib import Path
from tests.modkernel.test_moment_file import example
from modkernel.reuse.moments_file import write_moments
print(write_moments(Path(sys.argv[1]), example()))
"""


def example() -> ModuleMoments:
    train = moments_of(*features_of("relu", [7, 9, 5], 6, 0))
    validation = moments_of(*features_of("tanh", [3, 2, 4], 6, 1))
    return ModuleMoments("m" * 64, train, validation, 1.25)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = example()
    path = tmp_path / "new" / "moments.safetensors"
    sha256 = write_moments(path, written)
    assert sha256 == _sha256(path.read_bytes())
    found = read_moments(path, sha256)
    assert (found.module_id, found.seconds) == (written.module_id, 1.25)
    for split in ("train", "validation"):
        one, other = getattr(found, split), getattr(written, split)
        for name in ("counts", "sums", "products", "squares", "fourths"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert (one.classes, one.fingerprint, one.least) == (
            other.classes,
            other.fingerprint,
            other.least,
        )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_one_set_of_moments_may_stand_for_both(tmp_path: Path) -> None:
    train = example().train
    sha256 = write_moments(tmp_path / "m", ModuleMoments("m", train, train, 0.0))
    assert torch.equal(read_moments(tmp_path / "m", sha256).validation.sums, train.sums)


def test_second_moments_take_half_of_their_space(tmp_path: Path) -> None:
    large = moments_of(*features_of("random", [5, 5], 60, 0))
    write_moments(tmp_path / "m", ModuleMoments("m", large, large, 0.0))
    assert (tmp_path / "m").stat().st_size < 0.6 * 2 * large.products.numel() * 8


def test_equal_moments_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", MAKE, str(tmp_path / "other")],
        env={**os.environ, "PYTHONHASHSEED": "1"},  # That of this process is another.
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() == write_moments(tmp_path / "own", example())


def test_altered_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "moments.safetensors"
    sha256 = write_moments(path, example())
    content = bytearray(path.read_bytes())
    for at in (9, len(content) // 2, len(content) - 1):
        damaged = bytes(content[:at]) + bytes([content[at] ^ 1]) + bytes(content[at + 1 :])
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="differs from what was stored"):
            read_moments(path, sha256)
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="differs from what was stored"):
        read_moments(path, sha256)
    path.unlink()
    with pytest.raises(ArtifactError, match="Cannot read"):
        read_moments(path, sha256)


def about(**changed: object) -> dict[str, str]:
    known = {
        "format": 1,
        "module_id": "m",
        "fingerprint": "f",
        "classes": ["cat", "dog"],
        "least": {"train": 0.0, "validation": 0.0},
        "seconds": 1.0,
    }
    return {"moments": json.dumps({**known, **changed})}


@pytest.mark.parametrize(
    ("metadata", "drop", "says"),
    [
        (None, None, "does not hold class moments"),
        ({"moments": "["}, None, "does not hold class moments"),
        ({"moments": "[]"}, None, "does not hold class moments"),
        (about(format=2), None, "has format version 2"),
        (about(classes=["cat"]), None, "does not hold class moments"),
        (about(least={}), None, "does not hold class moments"),
        (about(), "train.sums", "does not hold class moments"),
        (about(), "validation.fourths", "does not hold class moments"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, metadata, drop, says) -> None:
    tensors = {}
    for split in ("train", "validation"):
        tensors |= {
            f"{split}.counts": torch.ones(2, dtype=torch.int64),
            f"{split}.sums": torch.ones(2, 3, dtype=torch.float64),
            f"{split}.products": torch.ones(2, 6, dtype=torch.float64),
            f"{split}.squares": torch.ones(2, dtype=torch.float64),
            f"{split}.fourths": torch.ones(2, dtype=torch.float64),
        }
    path = tmp_path / "m"
    save_file(tensors, path, metadata=about())
    read_moments(path, _sha256(path.read_bytes()))  # As it should be.

    if drop:
        del tensors[drop]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ArtifactError, match=says):
        read_moments(path, _sha256(path.read_bytes()))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"no safetensors")
    with pytest.raises(ArtifactError, match="does not hold class moments"):
        read_moments(path, _sha256(b"no safetensors"))


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="Cannot write moments"):
        write_moments(tmp_path / "file" / "m", example())
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match="Cannot write moments"):
        write_moments(tmp_path / "folder", example())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
