"""A home that is moved, with everything in it: the commands of a person, before and after."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.flows.helpers.commands import SMALL, several


@pytest.mark.long
def test_commands_work_in_a_home_that_was_moved(template: Path, tmp_path: Path) -> None:
    first, spec, picture = tmp_path / "home", tmp_path / "small.yaml", tmp_path / "one.png"
    shutil.copytree(template, first)
    spec.write_text(SMALL)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    train = ("train", str(spec), "--json")
    (made,) = several(first, train)
    home = first.rename(tmp_path / "ein anderer Platz für alles")
    again, checked, predicted, composed, repaired = several(
        home,
        train,
        ("verify", "--json"),
        ("predict", "small", str(picture), "--json"),
        ("compose", "small.hidden-1", "--name", "odd", "--classes", "1,3,5", "--json"),
        ("repair", "--json"),
    )
    assert again.json["reused_modules"] == 2
    assert again.json["id"] == made.json["id"]
    assert (checked.json, repaired.json) == ([], [])
    assert len(predicted.json) == 1
    assert composed.json["trained_modules"] == 1
    assert not first.exists()
