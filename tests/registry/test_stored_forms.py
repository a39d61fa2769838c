"""Databases, modules and moments as each schema and format left them still serve.

`tests/assets/make.py` says how the files were made.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from modkernel.errors import SchemaVersionError
from modkernel.modules.stored import read_module
from modkernel.registry import Registry, Settings
from modkernel.registry.sql.engine import upgrade_database
from modkernel.registry.sql.tables import SCHEMA_VERSION
from modkernel.reuse.moments_file import MOMENTS_FILE, read_moments
from modkernel.system.files import hash_file
from tests.assets.make import FOLDER, RAW
from tests.registry.helpers.examples import EVALUATION

EXPECTED = json.loads((FOLDER / "expected.json").read_text())
VERSIONS = sorted(path.stem.removeprefix("registry-") for path in FOLDER.glob("registry-*.sql"))


def restore(settings: Settings, version: str) -> None:
    """A home with a stored database, and private copies of the files that it names."""
    (settings.home / "registry.db").unlink()
    with closing(sqlite3.connect(settings.home / "registry.db")) as connection:
        connection.executescript((FOLDER / f"registry-{version}.sql").read_text())
    for name in ("hidden", "output"):
        module_id = read_module(FOLDER / name).id
        copy = settings.cache_dir / "modules" / module_id
        shutil.copytree(FOLDER / name, copy)
        if name == "hidden":
            moments = settings.cache_dir / "moments" / module_id
            moments.mkdir(parents=True)
            moved = moments / f"{EXPECTED['fingerprint']}.safetensors"
            (copy / MOMENTS_FILE).rename(moved)


def test_there_is_a_database_of_every_schema() -> None:
    migrations = Path(__file__).parents[2] / "registry/sql/migrations/versions"
    assert sorted(path.name[:4] for path in migrations.glob("0*.py")) == VERSIONS
    assert VERSIONS[-1] == SCHEMA_VERSION


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stored_database_is_upgraded_and_its_network_predicts_as_before(
    settings: Settings, version: str
) -> None:
    restore(settings, version)
    if version != SCHEMA_VERSION:
        with pytest.raises(SchemaVersionError, match=f"schema version {version}"):
            Registry.open(settings)
    assert upgrade_database(settings) == SCHEMA_VERSION
    with Registry.open(settings) as registry:
        network = registry.networks.resolve("old")
        assert network.evaluation == EVALUATION
        hidden, output = registry.networks.members(network)
        assert registry.modules.chain(output) == (hidden, output)
        assert registry.modules.find(kind="hidden") == registry.modules.find("old.hidden-1")
        assert registry.modules.find(upstream=hidden.id) == (output,)
        assert registry.modules.report(output).evaluation == EVALUATION
        predicted = registry.networks.load(network).predict(RAW)
        torch.testing.assert_close(predicted, torch.tensor(EXPECTED["probabilities"]))
        assert len(registry.moments.of(hidden)) == (0 if version == "0001" else 1)
        if version != "0001":
            moments = registry.moments.load(hidden, EXPECTED["fingerprint"])
            assert (moments.module_id, moments.train.examples) == (hidden.id, 60)
        # Its MLflow is empty: what is to be reused is stored there again, from the private copy.
        found = registry.modules.find_ready(hidden.recipe_digest)
        assert found is not None
        assert (found.id, found.version) == (hidden.id, 1)


def test_a_stored_file_of_moments_is_of_its_stored_module() -> None:
    file = FOLDER / "hidden" / MOMENTS_FILE
    moments = read_moments(file, hash_file(file))
    assert moments.module_id == read_module(FOLDER / "hidden").id
    assert moments.train.counts.tolist() == [20, 20, 20]
