"""An MLflow that does not answer is never told as a module, a run or an alias that is gone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from modkernel.errors import ArtifactError, StoreError
from modkernel.modules.stored import WEIGHTS_FILE
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.flavor import load_model
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.client import retries
from modkernel.reuse.moments_file import MOMENTS_FILE
from modkernel.system import outages
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.conftest import free_port
from tests.registry.helpers.examples import Examples, store_one, write_example_moments
from tests.registry.helpers.servers import mlflow_server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


class Server:
    """A real MLflow server that can be stopped and started: seconds each time."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.files, self._settings, self._running = folder / "far", settings, ExitStack()
        self._port = free_port()
        self.address = f"http://127.0.0.1:{self._port}"
        self.runs = False

    def start(self) -> None:
        if not self.runs:
            self._running.enter_context(mlflow_server(self._settings, self._port, self.files))
            self.runs = True

    def stop(self) -> None:
        self._running.close()
        self.runs = False


class Remote:
    """A registry over such a server."""

    def __init__(self, server: Server, home: Path) -> None:
        server.start()
        self.files, self.start, self.stop = server.files, server.start, server.stop
        near = Settings(home=home, mlflow_uri=server.address, lease_seconds=1)
        self.registry = Registry.open(near)

    def forget_copies(self) -> None:
        """Empty the private cache, so that MLflow is needed."""
        shutil.rmtree(self.registry.settings.cache_dir)


@pytest.fixture(scope="module")
def server(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("outages")
    shutil.copyfile(mlflow_template, folder / "mlflow.db")
    made = Server(Settings(home=folder), folder)
    yield made
    made.stop()


@pytest.fixture
def remote(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = Remote(server, tmp_path / "near")
    yield made
    made.registry.close()
    shutil.rmtree(server.files, ignore_errors=True)


@pytest.fixture
def record(remote: Remote, examples: Examples, request: pytest.FixtureRequest) -> ModuleRecord:
    """A module with moments, whose only copy is MLflow's; of another name in each test."""
    stored = examples.first()
    write_example_moments(stored.folder / MOMENTS_FILE, stored.id)
    name = request.function.__name__.removeprefix("test_").replace("_", "-")
    record = store_one(remote.registry, stored, f"{name}.hidden-1")
    shutil.rmtree(stored.folder)
    return record


QUESTIONS: dict[str, Callable[[Registry, ModuleRecord], Any]] = {
    "verify": lambda registry, _: registry.verify(),
    "repair": lambda registry, _: registry.repair(),
    "fetch": lambda registry, record: registry.modules.fetch(record),
    "moments": lambda registry, record: registry.moments.load(record, FACTS.fingerprint),
    "alias": lambda registry, record: registry.modules.resolve(f"{record.name}@champion"),
    "version": lambda registry, record: registry.modules.resolve(f"{record.name}/1"),
    "promote": lambda registry, record: registry.promotions.promote(record.name, "new", 1),
    "sync": lambda registry, _: registry.promotions.sync(),
    "loader": lambda _, record: load_model(f"models:/{record.name}/1"),
}


def test_a_stopped_server_is_an_outage_and_no_loss(remote: Remote, record: ModuleRecord) -> None:
    registry = remote.registry
    registry.promotions.promote(record.name, "champion", 1)
    remote.forget_copies()
    remote.stop()
    for name, ask in QUESTIONS.items():
        with pytest.raises(StoreError) as caught:
            ask(registry, record)
        assert type(caught.value) is StoreError, f"{name}: {caught.value!r}"
        assert "modkernel doctor" in str(caught.value), name
    assert registry.modules.resolve(record.id) == record, "the database alone answers"
    remote.start()
    assert (registry.verify(), registry.repair()) == ((), ())
    assert registry.modules.fetch(record).id == record.id
    assert registry.moments.has(record, FACTS.fingerprint)
    assert registry.modules.resolve(f"{record.name}@champion") == record


@pytest.mark.long
def test_a_server_that_is_away_for_a_while_is_waited_for_and_told(
    remote: Remote, record: ModuleRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6")
    told: list[str] = []
    monkeypatch.setattr(outages, "_watchers", [told.append])
    remote.stop()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(remote.registry.runs.is_running, record.run_id or "")
        time.sleep(2)
        remote.start()
        assert answer.result() is False
    assert "does not answer: waiting for it, for 120 s at most" in told[0]
    assert told[1].endswith("answers again.")
    assert len(told) == 2


@pytest.mark.parametrize("seconds", [0, 1, 4, 12, 13, 60, 120, 240])
def test_the_clients_retries_last_as_long_as_an_outage_may(seconds: int) -> None:
    waits = [0, *(min(120, 4 * 2**n) for n in range(retries(seconds) - 1))]
    assert seconds <= sum(waits)
    assert sum(waits[:-1]) < seconds or len(waits) == 1


def test_what_the_server_does_not_have_is_a_loss(remote: Remote, record: ModuleRecord) -> None:
    registry = remote.registry
    remote.forget_copies()
    (weights,) = remote.files.rglob(WEIGHTS_FILE)
    weights.unlink()
    with pytest.raises(ArtifactError, match=rf"no {WEIGHTS_FILE} any more.*modkernel repair"):
        registry.modules.fetch(record)
    assert [problem.kind for problem in registry.verify()] == ["artifact"]
    with pytest.raises(ArtifactError, match="check the reference"):
        load_model("models:/nobody.output/1")


@pytest.mark.long
def test_a_download_that_fails_for_a_moment_loses_nothing(
    remote: Remote, record: ModuleRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = remote.registry
    remote.forget_copies()

    def breaks(**_: Any) -> str:
        raise OSError("503 Server Error: try again")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "download_artifacts", breaks)
        assert [problem.kind for problem in registry.verify()] == ["unread"]
        assert [action.kind for action in registry.repair()] == ["failed"]
        for name in ("fetch", "moments"):
            with pytest.raises(StoreError, match="cannot be read now: 503") as caught:
                QUESTIONS[name](registry, record)
            assert type(caught.value) is StoreError, name
    location = artifacts.location_of(registry.backends.client, record.model_id or "")
    remote.stop()  # between the question where the file is and the file
    with pytest.raises(StoreError, match="cannot be read now") as caught:
        artifacts.download(registry.backends.client, f"{location}/{WEIGHTS_FILE}", remote.files)
    assert type(caught.value) is StoreError
    remote.start()
    assert (registry.verify(), registry.repair()) == ((), ())
    assert registry.modules.resolve(record.id).state == "READY"
