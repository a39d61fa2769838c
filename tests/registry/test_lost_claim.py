"""A process stalls for longer than its lease (a laptop that sleeps); another does its work."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modkernel.modules.stored import WEIGHTS_FILE, read_module
from modkernel.registry import ModuleRecord, NetworkRecord, Registry, Settings, saga
from modkernel.registry.sql.claims import Claim, is_held
from modkernel.registry.tracking.runs import Runs
from modkernel.registry.upkeep.repair import Repair
from tests.registry.helpers.examples import Examples, store_one
from tests.registry.helpers.processes import CONTEXT, start
from tests.registry.test_repair import STEPS, kill_while_storing
from tests.registry.test_store import alter, kept_folder

ALL_STEPS: dict[str, tuple[Any, str]] = STEPS | {
    "network's run made": (Runs, "start_network"),
    "bytes at hand": (saga, "bytes_at_hand"),
    "undone": (Repair, "_undo"),
}


def _stop_at(step: str, when: str) -> None:
    """Stop this process, all threads of it, the first time that it comes to a step."""
    owner, name = ALL_STEPS[step]
    function, renew, renewing = getattr(owner, name), Claim.renew, threading.Lock()

    def renew_alone(claim: Claim) -> None:
        with renewing:
            renew(claim)

    def stop() -> None:
        with renewing:  # SQLite's lock that a stopped process has is nobody else's.
            os.kill(os.getpid(), signal.SIGSTOP)

    def stopping(*arguments: Any, **named: Any) -> Any:
        setattr(owner, name, function)
        if when == "before":
            stop()
        given = function(*arguments, **named)
        if when == "after":
            stop()
        return given

    setattr(owner, name, stopping)
    Claim.renew = renew_alone  # type: ignore[method-assign]


def _store(settings: Settings, step: str, when: str, told: Any, folder: Path) -> None:
    with Registry.open(settings) as registry:
        _stop_at(step, when)
        told.put(store_one(registry, read_module(folder)))


def _add(settings: Settings, step: str, when: str, told: Any, module_ids: tuple[str, ...]) -> None:
    with Registry.open(settings) as registry:
        _stop_at(step, when)
        told.put(registry.networks.add("net", module_ids))


def _repair(settings: Settings, step: str, when: str, told: Any) -> None:
    with Registry.open(settings) as registry:
        _stop_at(step, when)
        told.put(registry.repair())


class Stalled:
    """A process that was stopped at a step."""

    def __init__(
        self, work: Callable[..., None], settings: Settings, step: str, when: str, *what: Any
    ) -> None:
        self.told = CONTEXT.Queue()
        self.process = start(work, settings, step, when, self.told, *what)
        stat = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + 60
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            assert self.process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def go_on(self) -> Any:
        """What it was told, once it went on."""
        os.kill(self.process.pid, signal.SIGCONT)
        given = self.told.get(timeout=60)
        self.process.join(60)
        assert self.process.exitcode == 0
        return given


def assert_one(registry: Registry, record: ModuleRecord | NetworkRecord) -> None:
    """Of a record there is one version in MLflow, one model, and a run that has ended well."""
    models = registry.backends.models
    assert [int(version.version) for version in models.versions(record)] == [record.version]
    assert models.logged(record) == (record.model_id,)
    assert registry.verify() == ()
    # A run that was begun twice is closed as that of any process that died.
    assert {action.kind for action in registry.repair()} <= {"closed"}
    assert registry.runs.running() == ()
    run = registry.backends.client.get_run(record.run_id)
    assert run.info.status == "FINISHED"


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("step", "when"),
    [
        pytest.param("row pending", "after", marks=LONG),
        pytest.param("run made", "before", marks=LONG),
        pytest.param("run made", "after", marks=LONG),
        pytest.param("figures logged", "before", marks=LONG),
        pytest.param("model made without files", "before", marks=LONG),
        ("model made without files", "after"),
        pytest.param("files logged", "after", marks=LONG),
        pytest.param("name registered", "before", marks=LONG),
        ("version made", "before"),
        pytest.param("version made", "after", marks=LONG),
    ],
)
def test_a_module_that_another_stored_meanwhile_is_there_once(
    registry: Registry, examples: Examples, step: str, when: str
) -> None:
    stored = examples.first()
    stalled = Stalled(_store, registry.settings, step, when, stored.folder)
    record = store_one(registry, stored)
    assert stalled.go_on() == record
    assert_one(registry, record)


@pytest.mark.home("chain")
@pytest.mark.parametrize(
    ("step", "when"),
    [
        pytest.param("network's run made", "before", marks=LONG),
        pytest.param("network's run made", "after", marks=LONG),
        pytest.param("figures logged", "before", marks=LONG),
        pytest.param("files logged", "before", marks=LONG),
        pytest.param("files logged", "after", marks=LONG),
        ("version made", "before"),
        pytest.param("version made", "after", marks=LONG),
    ],
)
def test_a_network_that_another_completed_meanwhile_is_there_once(
    registry: Registry, records: tuple[ModuleRecord, ...], step: str, when: str
) -> None:
    ids = tuple(record.id for record in records)
    stalled = Stalled(_add, registry.settings, step, when, ids)
    network = registry.networks.add("net", ids)
    assert stalled.go_on() == network
    assert_one(registry, network)


def test_a_repair_that_another_did_meanwhile_loses_nothing(
    registry: Registry, examples: Examples
) -> None:
    record = store_one(registry, examples.first())
    registry.backends.models.set_alias(record.name, "champion", 1)
    assert registry.promotions.sync()
    alter(kept_folder(registry, record) / WEIGHTS_FILE)
    stalled = Stalled(_repair, registry.settings, "bytes at hand", "before")
    while is_held(registry.backends.database, record.id):
        time.sleep(0.05)
    assert [action.kind for action in registry.repair()] == ["restored"]
    repaired = registry.modules.resolve("net.hidden-1@champion")
    assert stalled.go_on() == ()
    assert registry.modules.resolve("net.hidden-1@champion") == repaired
    assert repaired.id == record.id
    assert_one(registry, repaired)


def test_a_module_that_another_stored_meanwhile_is_not_undone(
    registry: Registry, examples: Examples
) -> None:
    stored = examples.first()
    kill_while_storing(registry.settings, stored, "run made")
    elsewhere = stored.folder.rename(stored.folder.with_name("elsewhere"))
    while is_held(registry.backends.database, stored.id):
        time.sleep(0.05)
    stalled = Stalled(_repair, registry.settings, "undone", "before")
    record = store_one(registry, read_module(elsewhere))
    assert stalled.go_on() == ()
    assert registry.modules.resolve("net.hidden-1/1") == record
    assert_one(registry, record)


def test_versions_that_a_stalled_process_left_behind_are_found_and_removed(
    registry: Registry, examples: Examples
) -> None:
    stored = examples.first()
    stalled = Stalled(_store, registry.settings, "version made", "before", stored.folder)
    record = store_one(registry, stored)
    # Where it goes on it makes another version; here it dies before it sees that it has no claim.
    registry.backends.models.add_version(record, {}, "")
    os.kill(stalled.process.pid, signal.SIGKILL)
    stalled.process.join()
    models = registry.backends.models
    models.set_alias(record.name, "champion", 2)
    (problem,) = registry.verify()
    assert problem.kind == "version"
    assert "has versions 1, 2 in MLflow where one is enough" in problem.message
    registry.repair()
    assert registry.modules.resolve("net.hidden-1@champion") == record
    assert_one(registry, record)
