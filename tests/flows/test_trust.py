"""Code that something stored names: nothing of it runs unless it is trusted."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from modkernel.flows.specs.read import parse_spec
from modkernel.lookup import import_paths, trusting
from modkernel.registry import Registry, Settings
from tests.flows.conftest import registry_of
from tests.flows.helpers.commands import Done, run_here, several
from tests.flows.helpers.trained import store_network
from tests.registry.helpers.stored_homes import close_mlflow

SPEC = """
name: own
dataset: {name: 'ownsets.sub:load'}
backbone: {name: 'ownnets:blocks'}
hidden:
  - {kernel: {name: relu}, recipe: {epochs: 1}}
  - {kernel: {name: relu}, recipe: {epochs: 1}}
output: {method: ridge}
"""
NETS = """
from torch import nn
from modkernel.backbones import Block

def linear(takes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8))

def blocks(spec):
    return [Block("one", linear), Block("two", linear)]
"""
SETS = """
import numpy as np
from modkernel.data import RawData

def load(spec):
    y = np.arange(120) % 3
    x = np.random.default_rng(0).integers(0, 80, (120, 8, 8)) + 80 * y[:, None, None]
    return RawData(x.astype(np.uint8), y, classes=("a", "b", "c"))
"""


class Place(NamedTuple):
    """A home with a network of somebody's own code, which leaves a mark where it is imported."""

    home: Path
    code: Path
    server: str

    @property
    def imported(self) -> set[str]:
        return {mark.stem for mark in self.code.glob("*.mark")}

    def forget_imports(self) -> None:
        for mark in self.code.glob("*.mark"):
            mark.unlink()

    def run(self, *commands: tuple[str, ...], trust: str = "") -> list[Done]:
        """Run commands in a fresh process, and forget what was imported before."""
        self.forget_imports()
        before = dict(os.environ)
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(self.code), before.get("PYTHONPATH")))
        )
        os.environ["MODKERNEL_TRUSTED_PACKAGES"] = trust
        try:
            return several(self.home, *commands, server=self.server)
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="module")
def place(template: Path, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("trust")
    place = Place(folder / "home", folder / "code", prefect_server)
    shutil.copytree(template, place.home)
    (place.code / "ownsets").mkdir(parents=True)
    (place.code / "ownsets" / "__init__.py").touch()
    for file, text in {"ownnets.py": NETS, "ownsets/sub.py": SETS, "planted.py": ""}.items():
        path = place.code / file
        mark = place.code / f"{path.relative_to(place.code).parts[0].removesuffix('.py')}.mark"
        path.write_text(f"open({str(mark)!r}, 'w').close()\n{text}")
    spec = parse_spec(SPEC, name="own.yaml", folder=place.code)
    settings = Settings(home=place.home)
    with (
        pytest.MonkeyPatch.context() as patched,
        Registry.open(settings) as registry,
        trusting(import_paths(spec)),
    ):
        patched.syspath_prepend(place.code)
        store_network(registry, spec)
    close_mlflow(settings.mlflow_uri)
    assert place.imported == {"ownnets", "ownsets"}
    for module in ("ownnets", "ownsets", "ownsets.sub"):
        del sys.modules[module]  # Whoever imports one again leaves its mark again.
    return place


def plant_tags(home: Path) -> None:
    """What anybody who can edit tags in MLflow may write."""
    settings = Settings(home=home)
    with Registry.open(settings) as registry:
        for record in registry.modules.find():
            for name in ("dataset_spec", "dataset"):
                value = json.dumps({"name": "planted:load"})
                registry.backends.client.set_tag(record.run_id, name, value)
    close_mlflow(settings.mlflow_uri)


def commands(folder: Path) -> Mapping[str, tuple[str, ...]]:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "one.png")
    return {
        "compose": ("compose", "own.hidden-2", "--name", "new", "--json"),
        "on other data": ("compose", "own.hidden-2", "--name", "other", "--dataset", "digits"),
        "retrain": ("retrain", "own", "--from", "2", "--seed", "1", "--json"),
        "labels": (
            *("labels", "suggest", "--module", "own.hidden-1", "--budget", "3"),
            *("--output", str(folder / "labels.csv"), "--json"),
        ),
        "predict": ("predict", "own", str(folder / "one.png"), "--json"),
    }


def test_stored_code_of_packages_that_are_not_trusted_is_not_imported(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_tags(place.home)
    asked = commands(tmp_path)
    advise = ("advise", "--dataset", "digits", "--json")
    place.forget_imports()
    os.environ |= {"PREFECT_API_URL": place.server, "MODKERNEL_TRUSTED_PACKAGES": ""}
    monkeypatch.syspath_prepend(place.code)
    with registry_of(place.home):
        *refused, advised, shown, table = (
            run_here(*command)
            for command in (
                *asked.values(),
                advise,
                ("modules", "show", "own.output", "--json"),
                ("modules", "show", "own.output"),
            )
        )
    assert place.imported == set()
    for name, done in zip(asked, refused, strict=True):
        assert done.code == 1, name
        assert "Traceback" not in done.err, name
        assert "'ownnets', add it to MODKERNEL_TRUSTED_PACKAGES" in " ".join(done.err.split()), name
    left_out = advised.json["left_out"]
    assert len(left_out) == 2
    assert all("MODKERNEL_TRUSTED_PACKAGES" in one["message"] for one in left_out)
    assert shown.json["needs"] == {
        "ownnets:blocks": "to load it",
        "ownsets.sub:load": "to read its data again",
    }
    assert "ownnets:blocks to load it" in table.out


@pytest.mark.long
def test_each_package_is_trusted_by_itself(place: Place, tmp_path: Path) -> None:
    (done,) = place.run(commands(tmp_path)["compose"], trust="ownnets")
    assert "'ownsets', add it to MODKERNEL_TRUSTED_PACKAGES" in " ".join(done.err.split())
    assert place.imported == set()


@pytest.mark.long
def test_trusted_packages_serve(place: Place, tmp_path: Path) -> None:
    asked, spec = commands(tmp_path), tmp_path / "own.yaml"
    spec.write_text(f"{SPEC}\nseed: 1\n")
    train = ("train", str(spec), "--json")
    trained, composed, predicted = place.run(
        train, asked["compose"], asked["predict"], trust="ownnets, ownsets"
    )
    # The second module is trained on the first, which is stored by then.
    assert trained.json["trained_modules"] == 3
    assert composed.code == 0, composed.err
    assert predicted.code == 0, predicted.err
    assert place.imported == {"ownnets", "ownsets"}


@pytest.mark.long
def test_a_data_set_of_many_classes_is_remembered(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    names = [f"kind-of-bird-{number:03d}" for number in range(450)]
    assert len(names[0]) == 16
    rng = np.random.default_rng(0)
    y = np.repeat(names, 16)
    np.savez(tmp_path / "birds.npz", x=rng.normal(size=(len(y), 8)).astype(np.float32), y=y)
    (tmp_path / "birds.yaml").write_text(
        "name: birds\n"
        f"dataset: {{name: arrays, path: birds.npz, validation_fraction: 0.25, "
        f"classes: [{', '.join(names)}]}}\n"
        "backbone: {name: mlp, width: 8, depth: 1}\n"
        "hidden:\n"
        "  - {kernel: {name: relu}, recipe: {epochs: 1, batch_size: 1024}}\n"
        "output: {method: ridge}\n"
    )
    done = several(
        home,
        ("train", str(tmp_path / "birds.yaml"), "--json"),
        ("compose", "birds.hidden-1", "--name", "again", "--json"),
        ("retrain", "birds", "--from", "output", "--seed", "1", "--json"),
        (
            *("labels", "suggest", "--module", "birds.hidden-1", "--budget", "3"),
            *("--output", str(tmp_path / "labels.csv"), "--json"),
        ),
    )
    for one in done:
        assert one.code == 0, one.err
