"""What a stored module says of image files is taken wherever it is used on others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modkernel.data.broken import Broken
from modkernel.errors import DataError, InterfaceError, SpecError
from modkernel.flows.cli._options import dataset_above, dataset_fields
from modkernel.flows.cli.predict import answers_to
from modkernel.flows.compose_network import compose_network
from modkernel.flows.plans import datasets
from modkernel.flows.runtime import shared
from modkernel.flows.specs.read import read_spec
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry
from modkernel.reuse.task import parse_task
from modkernel.spec import DatasetSpec, ImageReading
from tests.flows.helpers.specs import tiny
from tests.flows.helpers.trained import store_network

SIZE = (24, 16)
"""Height and width."""
TOP = 240


def picture(seed: int, top: int = TOP) -> Image.Image:
    """Sixteen-bit noise with values 0 to `top`, for which most readers have black."""
    values = np.random.default_rng(seed).integers(0, top, SIZE).astype(np.uint16)
    values[0, :2] = 0, top
    return Image.fromarray(values)


def folder(root: Path, top: int = TOP) -> Path:
    for label in range(2):
        (root / str(label)).mkdir(parents=True)
        for i in range(30):
            picture(100 * label + i, top).save(root / str(label) / f"{i}.png")
    return root


def test_size_and_range_of_a_stored_module(registry: Registry, tmp_path: Path) -> None:
    root = folder(tmp_path / "own")
    own = DatasetSpec(name="image_folder", path=str(root))
    store_network(registry, tiny("wide").changed(dataset=own))
    top = registry.modules.resolve("wide.hidden-2")
    assert top.spec.preprocessing.shape == (1, *SIZE)
    assert top.spec.preprocessing.reading == ImageReading(value_range=(0, TOP))

    other = folder(tmp_path / "other", top=999)
    fields = dataset_fields(None, str(other), None, None)
    above = dataset_above(registry, top, fields, None)
    assert above is not None
    assert (above.image_size, above.channels, above.value_range) == (SIZE, 1, (0, TOP))
    compose_network("composed", top.id, dataset=above)
    with pytest.raises(
        InterfaceError, match=r"image_size: \[24, 16\] and dataset\.channels: 1 and"
    ):
        datasets.check_fits(datasets.describe(registry, DatasetSpec()), top)
    advice = registry.advice.rank(parse_task("0, 1"), datasets.describe(registry, DatasetSpec()))
    assert {one.reason for one in advice.left_out} == {"interface"}
    assert "--image-size 24x16 --channels 1" in advice.left_out[0].message

    for i in range(20):
        picture(500 + i, top=5000).save(root / "1" / f"new{i}.png")
    assert datasets.describe(registry, own).preprocessing.reading.value_range == (0, 5000)
    recalled = datasets.recall(registry, top)
    assert datasets.describe(registry, recalled).preprocessing.reading.value_range == (0, TOP)

    network = registry.networks.load(registry.networks.resolve("wide"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = [root / "0" / "0.png", broken, root / "1" / "0.png", tmp_path / "missing.png"]
    found: list[Any] = []
    predicted, unread = answers_to(
        network, None, paths, lambda *some: found.extend(zip(*some, strict=True))
    )
    assert predicted == 2
    assert [name for name, _ in found] == [str(paths[0]), str(paths[2])]
    assert [one.path for one in unread] == [broken, paths[3]]
    assert all(isinstance(one, Broken) for one in unread)
    assert found[0][1]["probabilities"] != found[1][1]["probabilities"]

    before, moved = datasets.describe(registry, own), tmp_path / "moved"
    root.rename(moved)
    with pytest.raises(DataError, match=rf"no longer at {root}: .*--data PATH"):
        datasets.recall(registry, top)
    elsewhere = datasets.describe(registry, own.changed(path=str(moved)))
    assert elsewhere.fingerprint == before.fingerprint


def test_data_that_were_moved_are_read_as_they_were(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, moved = folder(tmp_path / "own"), tmp_path / "moved"
    (root / "unknown").mkdir()
    for i in range(10):
        (root / "0" / f"{i}.png").rename(root / "unknown" / f"{i}.png")
    own = DatasetSpec(name="image_folder", path=str(root), unlabelled="unknown", split_seed=3)
    store_network(registry, tiny("some").changed(dataset=own))
    top = registry.modules.resolve("some.hidden-2")
    before = datasets.describe(registry, datasets.recall(registry, top))
    shutil.copytree(root, moved)
    fields = dataset_fields(None, str(moved), None, None)
    other = dataset_above(registry, top, fields, None)
    assert other is not None
    assert (other.unlabelled, other.split_seed) == (None, 0), "further data may be anything"
    assert "were moved" not in caplog.text
    shutil.rmtree(root)
    above = dataset_above(registry, top, fields, None)
    assert above is not None
    assert datasets.describe(registry, above).fingerprint == before.fingerprint
    told = f"{moved} is read as those were (value_range: (0.0, 240.0), unlabelled: unknown, split"
    assert told in caplog.text


@pytest.mark.long
def test_a_network_of_data_by_a_name_is_the_same_on_machines_that_have_them_elsewhere(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "spec.yaml"
    spec = tiny("named").changed(dataset=DatasetSpec(name="image_folder", path="birds"))
    file.write_text(spec.model_dump_json(exclude_defaults=True))
    assert read_spec(file) == spec, "another machine may know the name"
    with pytest.raises(DataError, match="'birds' is no file or folder on host"):
        train_network(spec)
    for machine in ("a", "b"):
        root = folder(tmp_path / machine / "pictures")
        monkeypatch.setenv("MODKERNEL_DATA_PATHS", f"birds={root}")
        result = train_network(read_spec(file))
    here = shared.open_registry()
    assert all(module.reused for module in result.modules)
    top = registry.modules.resolve("named.hidden-2")
    assert registry.modules.dataset(top) == spec.dataset
    assert datasets.recall(here, top).path == "birds"
    fields = dataset_fields(None, "birds", None, None)
    assert fields["path"] == "birds"
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path)
    assert dataset_fields(None, "birds", None, None) == fields, "a name wins over a folder"
    monkeypatch.delenv("MODKERNEL_DATA_PATHS")
    assert dataset_fields(None, "birds", None, None)["path"] == str(tmp_path / "birds")


def test_a_file_is_read_by_its_kind(tmp_path: Path) -> None:
    kinds = {"days.csv": "table", "DAYS.CSV.GZ": "table", "a.npz": "arrays", "b.parquet": "table"}
    for name, kind in kinds.items():
        (tmp_path / name).touch()
        assert dataset_fields(None, str(tmp_path / name), None, None)["name"] == kind
    arrow = tmp_path / "arrow"
    arrow.mkdir()
    (arrow / "dataset_info.json").touch()
    assert dataset_fields(None, str(arrow), None, None)["name"] == "huggingface"
    (tmp_path / "days.xlsx").touch()
    with pytest.raises(DataError, match=r"days\.xlsx is no data set .* or a spec file"):
        dataset_fields(None, str(tmp_path / "days.xlsx"), None, None)
    assert dataset_fields("own:loader", str(tmp_path / "days.xlsx"), None, None) == {
        "name": "own:loader",
        "path": str(tmp_path / "days.xlsx"),
    }


def test_what_options_cannot_say_of_data_a_spec_file_says(tmp_path: Path) -> None:
    file = tmp_path / "weather.yaml"
    file.write_text(
        "name: weather\n"
        "dataset: {name: table, path: days.csv, label: rain, unlabelled: unknown, split_seed: 3}\n"
    )
    fields = dataset_fields(None, str(file), None, None)
    assert fields == {
        "name": "table",
        "path": str(tmp_path / "days.csv"),
        "label": "rain",
        "unlabelled": "unknown",
        "split_seed": 3,
    }
    with pytest.raises(SpecError, match="leave --dataset out"):
        dataset_fields("table", str(file), None, None)
