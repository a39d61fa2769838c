"""When a run is taken for dead: what Prefect's automations for that wait for."""

from __future__ import annotations

from prefect.automations import EventTrigger
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed, Pending, State

from modkernel.flows.servers.automations import automations


def test_a_run_that_has_ended_or_waits_for_a_process_needs_no_heartbeat() -> None:
    """One that a pod hands back waits for the next, which Kueue may admit hours later."""
    trigger = automations(["module-work"])[0].trigger
    assert isinstance(trigger, EventTrigger)
    kept: list[State] = [Completed(), Failed(), Crashed(), Cancelled(), AwaitingRetry(), Pending()]
    assert {f"prefect.flow-run.{state.name}" for state in kept} <= trigger.expect
    assert "prefect.flow-run.Running" not in trigger.expect
