"""Making a thing once: what is found is not made, and every state on the way is emitted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prefect import flow

from modkernel.errors import DataError
from modkernel.flows.plans import datasets
from modkernel.flows.runtime.events import Event, StateChanged, watch
from modkernel.flows.tasks.child import make_job
from modkernel.flows.tasks.child_events import (
    EpochEnded,
    Remark,
    Started,
    TargetJudged,
    Waiting,
    parse,
)
from modkernel.flows.tasks.once import RunChild, once
from modkernel.flows.team.dispatch import Work
from modkernel.jobs.job import EndToEndJob, Job
from modkernel.registry import Registry
from modkernel.training.report import EpochLine
from tests.flows.helpers.specs import tiny


def no_work() -> Work:
    raise AssertionError("there is no team")


KEY = "b" * 64


def attempt(
    registry: Registry, find: Callable[[], str | None], make: Callable[[RunChild], str]
) -> tuple[str, bool]:
    """`once`, in a flow of its own: a child's log goes to the flow that it is in."""

    @flow
    def make_one() -> tuple[str, bool]:
        return once(registry, KEY, "thing", "training", find=find, make=make, work=no_work)

    return make_one()


def job_that_fails(registry: Registry) -> Job:
    """End-to-end training on data that have changed since it was planned."""
    spec = tiny()
    return make_job(
        EndToEndJob,
        registry.settings,
        KEY,
        network=spec,
        dataset=spec.dataset,
        fingerprint="another",
    )


def refuse(_: RunChild) -> str:
    raise AssertionError("it is there already")


def test_what_is_found_is_not_made_and_its_folder_is_removed(registry: Registry) -> None:
    folder = registry.settings.work_dir / KEY
    folder.mkdir()
    events: list[Event] = []
    with watch(events.append):
        assert attempt(registry, lambda: "value", refuse) == ("value", False)
    assert events == [StateChanged("thing", "reused")]
    assert not folder.exists()


def test_what_is_not_found_is_made_under_the_claim(registry: Registry) -> None:
    def make(_: RunChild) -> str:
        assert registry.claim(KEY, "another") is None
        return "new"

    events: list[Event] = []
    with watch(events.append):
        assert attempt(registry, lambda: None, make) == ("new", True)
    assert events == [StateChanged("thing", "training"), StateChanged("thing", "stored")]
    assert registry.claim(KEY, "another") is not None


def test_what_ends_a_child_is_raised_and_the_folder_stays(registry: Registry) -> None:
    datasets.describe(registry, tiny().dataset)

    def make(run: RunChild) -> str:
        run(job_that_fails(registry))
        return "never"

    events: list[Event] = []
    with watch(events.append), pytest.raises(DataError, match="has changed"):
        attempt(registry, lambda: None, make)
    assert events[0] == StateChanged("thing", "training")
    assert events[-1] == StateChanged("thing", "failed")
    assert (registry.settings.work_dir / KEY / "error.json").exists()
    assert registry.claim(KEY, "another") is not None, "released for the next try"


def test_what_a_child_reports_is_parsed_by_its_type() -> None:
    line = EpochLine(epoch=2, objective=0.5, validation=None, learning_rate=0.1, seconds=1)
    assert parse(line.event(3)) == EpochEnded(line, 3)
    assert parse({"event": "waiting", "for": "device"}) == Waiting("device")
    assert parse({"event": "started", "device": "cpu", "pid": 7}) == Started("cpu", 7)
    target = {"event": "target", "target": 1, "targets": 4}
    assert parse(target) == TargetJudged(1, 4)
    assert parse({"event": "note", "text": "so"}) == Remark("so")
    assert parse({"event": "finished", "peak_memory_bytes": 1}) is None
