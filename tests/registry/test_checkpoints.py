"""Checkpoints in the store of a real MLflow server, for other machines."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
import torch
from requests import HTTPError

from modkernel.errors import StoreError
from modkernel.registry import Registry, Settings
from modkernel.registry.beside.checkpoints import FOLDER, TAG, Checkpoints
from modkernel.training.checkpoint import FILE, Position, read_checkpoint, write_checkpoint
from tests.registry.conftest import free_port
from tests.registry.helpers.examples import Examples, report_of
from tests.registry.helpers.servers import mlflow_server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(
    mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Address of a server, and the folder of its artifacts."""
    far = tmp_path_factory.mktemp("far")
    shutil.copyfile(mlflow_template, far / "mlflow.db")
    with mlflow_server(Settings(home=far), free_port(), far / "files") as address:
        yield address, far / "files"


@pytest.fixture
def registry(server: tuple[str, Path], tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(Settings(home=tmp_path / "home", mlflow_uri=server[0])) as opened:
        yield opened


def checkpoint(folder: Path, epoch: int, step: int = 0) -> Path:
    state = {"loop": {"epoch": epoch, "step": step}, "model": torch.full((1000,), float(epoch))}
    write_checkpoint(folder, state)
    return folder / FILE


@pytest.fixture
def run_id(registry: Registry, examples: Examples, request: pytest.FixtureRequest) -> str:
    # One of the same recipe would be resumed.
    spec = examples.first().spec.changed(seed=crc32(request.node.name.encode()))
    return registry.runs.start_module("net.hidden-1", spec)


def stored_files(files: Path, run_id: str) -> list[Path]:
    return sorted(files.glob(f"*/{run_id}/artifacts/{FOLDER}/*"))


def test_the_newest_is_kept_and_comes_to_another_machine_unless_it_is_further(
    registry: Registry, run_id: str, server: tuple[str, Path], tmp_path: Path
) -> None:
    store, here, there = registry.checkpoints, tmp_path / "here", tmp_path / "there"
    assert store.fetch(run_id, there / FILE) is None
    assert store.store(run_id, here / FILE) is None, "there is none yet"
    for epoch, step in ((1, 0), (2, 7), (10, 0)):
        found = store.store(run_id, checkpoint(here, epoch, step))
        assert found == (epoch, step)
        assert len(stored_files(server[1], run_id)) == 2, "the older ones are gone"
    before = [file.stat().st_mtime_ns for file in stored_files(server[1], run_id)]
    assert store.store(run_id, here / FILE, Position(10, 0)) == (10, 0)
    assert [file.stat().st_mtime_ns for file in stored_files(server[1], run_id)] == before
    # A process that died leaves the run as it is, and one that stopped has ended it.
    registry.runs.finish(run_id, "KILLED")
    checkpoint(there, 9)
    assert store.fetch(run_id, there / FILE) == (10, 0)
    assert (there / FILE).read_bytes() == (here / FILE).read_bytes()
    checkpoint(there, 10, 3)
    assert store.fetch(run_id, there / FILE) == (10, 0)
    state = read_checkpoint(there)
    assert state is not None
    assert state["loop"] == {"epoch": 10, "step": 3}, "it is further than the one in the store"
    store.remove(run_id)
    store.remove(run_id)
    assert stored_files(server[1], run_id) == []
    assert TAG not in registry.backends.client.get_run(run_id).data.tags
    assert [path.name for path in here.iterdir()] == [FILE], "nothing is left beside it"


def test_older_ones_that_one_may_not_delete_stay_and_the_new_one_is_sent(
    registry: Registry,
    run_id: str,
    server: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = registry.checkpoints
    store.store(run_id, checkpoint(tmp_path, 1))

    def deny(*_: object) -> None:
        raise HTTPError("403 Client Error: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_delete", deny)
        assert store.store(run_id, checkpoint(tmp_path, 2)) == (2, 0)
    assert len(stored_files(server[1], run_id)) == 4
    assert store.store(run_id, checkpoint(tmp_path, 3)) == (3, 0)
    assert len(stored_files(server[1], run_id)) == 2


@pytest.mark.parametrize("damage", ["cut", "other", "gone", "pointer"])
def test_a_damaged_one_is_passed_over_and_the_newest_whole_one_is_used(
    registry: Registry, run_id: str, server: tuple[str, Path], tmp_path: Path, damage: str
) -> None:
    store, there = registry.checkpoints, tmp_path / "there"
    store.store(run_id, checkpoint(tmp_path / "old", 3))
    old = [(file, file.read_bytes()) for file in stored_files(server[1], run_id)]
    store.store(run_id, checkpoint(tmp_path / "new", 4))
    pointer, file = stored_files(server[1], run_id)
    match damage:
        case "cut":
            file.write_bytes(file.read_bytes()[:2000])
        case "other":
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        case "gone":
            file.unlink()
        case "pointer":
            pointer.write_text(pointer.read_text()[:20])
    assert store.fetch(run_id, there / FILE) is None
    assert not (there / FILE).exists()
    for path, content in old:
        path.write_bytes(content)
    assert store.fetch(run_id, there / FILE) == (3, 0)
    assert (there / FILE).read_bytes() == (tmp_path / "old" / FILE).read_bytes()
    # The next one clears all of it away.
    assert store.store(run_id, checkpoint(tmp_path / "new", 5)) == (5, 0)
    assert len(stored_files(server[1], run_id)) == 2


def test_those_left_behind_of_what_is_stored_are_swept(
    registry: Registry, examples: Examples, server: tuple[str, Path], tmp_path: Path
) -> None:
    store, stored = registry.checkpoints, examples.first()
    run_id = registry.runs.start_module("swept.hidden-1", stored.spec)
    store.store(run_id, checkpoint(tmp_path, 1))
    assert store.sweep() == ()
    registry.modules.store(stored.folder, name="swept.hidden-1", report=report_of(stored))
    assert registry.backends.client.get_run(run_id).info.run_name in store.sweep()
    assert stored_files(server[1], run_id) == []
    assert store.sweep() == ()


def test_a_store_that_is_away_is_a_store_error(
    registry: Registry, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(registry.backends.client._tracking_client.store, "get_host_creds", refused)
    for ask in (registry.checkpoints.store, registry.checkpoints.fetch):
        with pytest.raises(StoreError):
            ask(run_id, checkpoint(tmp_path, 1))


def refused() -> None:
    raise ConnectionError("away")


def test_a_home_of_one_machine_shares_none(settings: Settings) -> None:
    with Registry.open(settings) as registry:
        assert not registry.checkpoints.are_shared
        assert registry.checkpoints.sweep() == ()
