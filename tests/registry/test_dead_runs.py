"""MLflow runs that nobody is at work in are closed by `repair`, and by it alone."""

from __future__ import annotations

import time

import pytest

from modkernel.registry import Registry
from modkernel.registry.sql import claims
from tests.registry.helpers.examples import Examples, report_of

DIGEST = "d" * 64


def status(registry: Registry, run_id: str) -> str:
    return str(registry.backends.client.get_run(run_id).info.status)


@pytest.mark.parametrize("kind", ["network", "module"])
def test_a_run_without_a_live_claim_is_closed(
    registry: Registry, examples: Examples, kind: str
) -> None:
    spec = examples.first().spec
    digest = DIGEST if kind == "network" else spec.digest()
    claim = registry.claim(digest, "there:7")
    assert claim is not None
    if kind == "network":
        run_id = registry.runs.start_network("net", "digits", digest=digest)
    else:
        run_id = registry.runs.start_module("net.hidden-1", spec)
    with claim.renewed():
        assert registry.repair() == ()
        assert status(registry, run_id) == "RUNNING"
    (action,) = registry.repair()
    assert (action.kind, action.module_id) == ("closed", None)
    assert f"MLflow run {run_id[:12]}" in action.message
    assert status(registry, run_id) == "KILLED"
    assert registry.repair() == ()


def test_a_claim_that_nobody_renews_keeps_no_run_open(registry: Registry) -> None:
    run_id = registry.runs.start_network("net", "digits", digest=DIGEST)
    assert claims.take(registry.backends.database, DIGEST, "dead:7", 1) is not None
    assert registry.repair() == (), "its lease still runs"
    while not (actions := registry.repair()):
        time.sleep(0.1)
    assert [action.kind for action in actions] == ["closed"]
    assert status(registry, run_id) == "KILLED"


def test_a_run_whose_module_is_stored_has_finished(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    run_id = registry.runs.start_module("net.hidden-1", stored.spec)
    registry.modules.store(
        stored.folder, name="net.hidden-1", report=report_of(stored), run_id=run_id
    )
    assert [action.kind for action in registry.repair()] == ["closed"]
    assert status(registry, run_id) == "FINISHED"
    assert registry.repair() == ()


def test_another_program_s_runs_are_left_alone(registry: Registry) -> None:
    client = registry.backends.client
    experiment = client.create_experiment("somebody's")
    run = client.create_run(experiment, tags={"recipe_digest": DIGEST})
    assert registry.repair() == ()
    assert status(registry, run.info.run_id) == "RUNNING"
