"""Prefect's automations for runs whose process is gone: marked Crashed, and started again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from prefect.automations import (
    AutomationCore,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

SILENT = timedelta(seconds=120)
"""A run that has not been heard of for so long is dead; it is heard of every 30 s."""
RESTARTS = 3
"""How often a run that crashed is started again by itself."""
CRASHED = "modkernel: a run that is not heard of any more is Crashed"
RESTARTED = "modkernel: a Crashed run starts again"
GONE = "The process of this run is gone: nothing was heard of it for 2 minutes."
AGAIN = "Started again after a crash: what is stored is kept, training goes on from its checkpoint."


async def install_automations(flows: Sequence[str]) -> None:
    """Make the automations that are not there yet; one that is there is a person's to change.

    Args:
        flows: names of the flows that they are for. A server may run other people's as well.
    """
    async with get_client() as client:
        for automation in automations(flows):
            if not await client.read_automations_by_name(automation.name):
                await client.create_automation(automation)


def automations(flows: Sequence[str]) -> tuple[AutomationCore, AutomationCore]:
    """Both automations, for runs of the flows of these names."""
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    ours = _labels({"prefect.resource.role": "flow", "prefect.resource.name": list(flows)})
    deployed = _labels({"prefect.resource.role": "deployment"})
    heartbeat = "prefect.flow-run.heartbeat"
    ends = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut", "Paused", "Suspended")
    # A run that a pod handed back when it was told to end may wait long for the next one.
    waits = ("AwaitingRetry", "Pending")
    counts = [str(count) for count in range(1, RESTARTS + 1)]
    return (
        AutomationCore(
            name=CRASHED,
            description=f"Every run is heard of each 30 s. After {SILENT.seconds} s without, its "
            "process is gone. To be without this, switch it off: deleted, it is made again.",
            trigger=EventTrigger(
                match=_labels(runs),
                match_related=[ours],
                for_each={"prefect.resource.id"},
                after={heartbeat},
                expect={heartbeat, *(f"prefect.flow-run.{name}" for name in (*ends, *waits))},
                posture=Posture.Proactive,
                threshold=1,
                within=SILENT,
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message=GONE)],
        ),
        AutomationCore(
            name=RESTARTED,
            description=f"The same run, with the same parameters, at most {RESTARTS} times. "
            "To be without this, switch it off: deleted, it is made again.",
            trigger=EventTrigger(
                # The server counts how often a run has begun, so that this is bounded.
                match=_labels(runs | {"prefect.run-count": counts}),
                match_related=[ours, deployed],
                for_each={"prefect.resource.id"},
                expect={"prefect.flow-run.Crashed"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                ChangeFlowRunState(name="AwaitingRetry", state=StateType.SCHEDULED, message=AGAIN)
            ],
        ),
    )


def _labels(labels: Mapping[str, str | list[str]]) -> ResourceSpecification:
    return ResourceSpecification.model_validate(labels)
