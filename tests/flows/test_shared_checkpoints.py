"""A module that one machine began is finished by another, from the checkpoint in MLflow's store."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from modkernel.errors import StoppedError, StoreError
from modkernel.flows.runtime import shared
from modkernel.flows.runtime.events import EpochDone, Event, Note, watch
from modkernel.flows.runtime.interrupts import stop_all
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry, Settings
from modkernel.registry.beside.checkpoints import Checkpoints
from modkernel.training.checkpoint import Position
from tests.flows.helpers.processes import free_ports
from tests.flows.helpers.specs import tiny
from tests.flows.test_kills import epochs_reported, progress_of, start_flow, until
from tests.registry.helpers.servers import mlflow_server

LONG = 150
"""Epochs of a module that trains for some seconds."""
FIRST = "far.hidden-1"


def epochs_of(events: list[Event]) -> list[int]:
    return [e.epoch for e in events if isinstance(e, EpochDone) and e.module == FIRST]


def notes_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


@pytest.mark.long
@pytest.mark.servers
def test_another_machine_goes_on_where_one_died(
    registry: Registry, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny("far", epochs=(LONG,))
    undisturbed = train_network(spec)
    (port,) = free_ports(1)
    far, files = tmp_path / "far", tmp_path / "files"
    shutil.copytree(template, far)
    with mlflow_server(Settings(home=far), port, files) as address:
        monkeypatch.setenv("MODKERNEL_MLFLOW_URI", address)
        monkeypatch.setenv("MODKERNEL_DATABASE_URL", f"sqlite:///{far}/registry.db")
        monkeypatch.setenv("MODKERNEL_CHECKPOINT_SECONDS", "1")
        for machine in ("a", "b"):
            shutil.copytree(template, tmp_path / machine)
        monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path / "a"))
        here = shared.open_registry()
        flow, _ = start_flow(spec, tmp_path)
        sent = until(lambda: list(files.rglob("checkpoint/*.json")) or flow.poll() is not None)
        assert sent is not True, (tmp_path / "flow.log").read_text()
        (started,) = (e for e in progress_of(here, "linear1") if e["event"] == "started")
        flow.kill()
        os.kill(started["pid"], signal.SIGKILL)
        flow.wait()
        assert max(epochs_reported(here, "linear1")) < LONG, "it was to die in the middle"

        monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path / "b"))
        events: list[Event] = []
        with watch(events.append):
            result = train_network(spec)
        assert epochs_of(events)[0] > 1
        assert [text for text in notes_of(events) if "it goes on after" in text]
        assert [each.id for each in result.modules] == [each.id for each in undisturbed.modules]
        assert not list(files.rglob("checkpoint/*"))
        there = shared.open_registry()
        (run,) = there.runs.search(f"tags.module = '{FIRST}'")
        assert run.info.status == "FINISHED"
        assert run.info.run_id == there.modules.resolve(result.modules[0].id).run_id
        assert not there.verify()


@pytest.fixture
def sharing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry whose MLflow is no server, and is taken for one."""
    monkeypatch.setattr(Checkpoints, "are_shared", True)
    monkeypatch.setenv("MODKERNEL_CHECKPOINT_SECONDS", "1")
    return registry


@pytest.mark.long
@pytest.mark.parametrize("hangs", [False, True])
def test_a_store_that_is_away_stops_no_training(
    sharing: Registry, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    asked: list[float] = []
    end = threading.Event()

    def away(*_: object) -> None:
        asked.append(time.monotonic())
        if hangs:
            end.wait(600)
        raise StoreError("MLflow is away.")

    monkeypatch.setattr(Checkpoints, "store", away)
    monkeypatch.setattr(Checkpoints, "fetch", away if not hangs else lambda *_: None)
    monkeypatch.setattr("modkernel.flows.tasks.checkpoints.DONE_SECONDS", 0.5)
    events: list[Event] = []
    with watch(events.append):
        result = train_network(tiny("far", epochs=(LONG,)))
    assert result.trained_modules == 2
    assert asked
    told = notes_of(events)
    assert len([text for text in told if "starts with what is here" in text]) == (not hangs)
    assert len([text for text in told if "is sent later" in text]) == (not hangs)
    end.set()


@pytest.mark.long
def test_what_is_stopped_sends_its_last_checkpoint_and_what_is_stored_takes_it_away(
    sharing: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODKERNEL_CHECKPOINT_SECONDS", "3600")
    spec = tiny("far", epochs=(LONG,))
    files = sharing.settings.artifact_root

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 5:
            stop_all()

    with watch(stop), pytest.raises(StoppedError):
        train_network(spec)
    (sent,) = files.rglob("checkpoint/*.safetensors")
    epoch, step = map(int, sent.name.split("-")[:2])
    assert Position(epoch, step) > (5, 0)
    shutil.rmtree(sharing.settings.work_dir)
    sharing.settings.work_dir.mkdir()
    events: list[Event] = []
    with watch(events.append):
        train_network(spec)
    assert epochs_of(events) == list(range(epoch + 1, LONG + 1))
    assert not list(files.rglob("checkpoint/*"))
