"""Storing on real file systems that are full: one sentence, nothing half-written, on it goes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from modkernel.errors import StoreError
from modkernel.registry import Registry, Settings
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.system.files import disk_is_full
from tests.modkernel.helpers.small_disk import small_disk
from tests.registry.conftest import close_mlflow
from tests.registry.helpers.examples import Examples, store_one, write_example_moments


@pytest.mark.parametrize("place", ["cache", "artifacts", "registry.db", "mlflow.db"])
def test_storing_goes_on_once_there_is_room(
    settings: Settings, examples: Examples, tmp_path: Path, place: str
) -> None:
    stored = examples.first()
    write_example_moments(stored.folder / MOMENTS_FILE, stored.id)
    Registry.open(settings).close()
    folder = tmp_path / "disk" if place.endswith(".db") else settings.home / place
    with small_disk(folder) as disk:
        changed = {}
        if place.endswith(".db"):
            shutil.copyfile(settings.home / place, folder / place)
            name = "database_url" if place == "registry.db" else "mlflow_uri"
            changed = {name: f"sqlite:///{folder / place}"}
        made = Settings(home=settings.home, lease_seconds=1, **changed)
        with Registry.open(made) as registry:
            disk.leave(0)
            with pytest.raises((StoreError, OSError)) as caught:
                store_one(registry, stored)
            error = caught.value
            if isinstance(error, StoreError):
                assert "disk" in str(error)
                assert "is full" in str(error)
                assert "free some space" in str(error)
            else:
                assert disk_is_full(error)
            subprocess.run(disk.grow, check=True)
            kept = [file.name for file in settings.home.rglob("*") if file.is_file()]
            assert not [name for name in kept if name.endswith(".tmp")]
            assert store_one(registry, stored).state == "READY"
            assert (registry.verify(), registry.repair()) == ((), ())
            assert len(registry.moments.of(registry.modules.resolve(stored.id))) == 1
        close_mlflow(made.mlflow_uri)
