"""Networks that follow an alias: when it moves, they are composed again.

Whoever serves flows tells Prefect's server of each move that the registry sees, as an event; an
automation for each network that follows starts the deployment. Both are Prefect's own, so that a
person finds, pauses and deletes them on its pages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from prefect.automations import AutomationCore, EventTrigger, Posture, RunDeployment
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event
from prefect.exceptions import ObjectNotFound

from modkernel.errors import ServiceError, SpecError
from modkernel.registry import Registry
from modkernel.registry.records import PromotionRecord

MOVED = "modkernel.alias.moved"
REMOVED = "modkernel.alias.removed"
PREFIX = "modkernel: "
"""Of our automations' names."""


class _NotOfferedError(Exception):
    """The forms do not offer an alias yet."""


def tell_moves(registry: Registry, offered: Collection[str]) -> tuple[PromotionRecord, ...]:
    """Tell Prefect's server in use of each move of an alias that it was not told of.

    None is told while the forms do not offer an alias that moved: the server would refuse the run
    that an automation starts, and there is no second event.

    Args:
        registry: knows the moves.
        offered: references that the served forms allow.

    Returns:
        The moves.

    Raises:
        StoreError: the registry does not answer.
        Exception: whatever the client raises of a server that is away; they are told later.
    """
    with suppress(_NotOfferedError), registry.promotions.news() as moves:
        if moves:
            moved = {f"{one.name}@{one.alias}" for one in moves}
            # Aliases of networks, and those that were removed, are never offered.
            if not moved.intersection(registry.names().modules).issubset(offered):
                raise _NotOfferedError
            with get_client(sync_client=True) as client:
                answer = client.request("POST", "/events", json=[_event(one) for one in moves])
                answer.raise_for_status()
        return moves
    return ()


def check_can_follow(reference: str, deployment: str) -> None:
    """Check that a reference is an alias, and that moves of it start something.

    Raises:
        SpecError: it is no NAME@ALIAS.
        ServiceError: nothing serves the deployment on Prefect's server in use.
    """
    if "@" not in reference:
        raise SpecError(
            f"'{reference}' never moves: to follow, name the module as NAME@ALIAS, such as "
            f"{reference.partition('/')[0]}@production."
        )
    with get_client(sync_client=True) as client:
        _deployment(client, deployment)


def follow_alias(
    network: str, reference: str, deployment: str, parameters: Mapping[str, Any]
) -> str:
    """Have a deployment run whenever an alias moves; what a network followed before, it leaves.

    Args:
        network: its name: it follows one alias.
        reference: NAME@ALIAS.
        deployment: of the flow of this name.
        parameters: of its runs, JSON-clean.

    Returns:
        The automation's name.

    Raises:
        ServiceError: nothing serves the deployment.
    """
    with get_client(sync_client=True) as client:
        start = f"{PREFIX}network {network} follows "
        automation = AutomationCore(
            name=f"{start}{reference}",
            description="Composed again whenever the alias moves. Pause or delete this to end it.",
            trigger=EventTrigger(
                match={"prefect.resource.id": _resource(reference)},
                expect={MOVED},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=_deployment(client, deployment),
                    parameters=dict(parameters),
                )
            ],
        )
        for other in client.read_automations():
            if other.name.startswith(start):
                client.delete_automation(other.id)
        client.create_automation(automation)
    return automation.name


def _deployment(client: SyncPrefectClient, name: str) -> Any:
    try:
        return client.read_deployment_by_name(f"{name}/{name}").id
    except ObjectNotFound as error:
        raise ServiceError(
            "Nobody would see the alias move: start 'modkernel up' (or a team's server) and use "
            "its Prefect server, then follow."
        ) from error


def _resource(reference: str) -> str:
    return f"modkernel.alias.{reference}"


def _event(moved: PromotionRecord) -> dict[str, Any]:
    reference = f"{moved.name}@{moved.alias}"
    event = Event(
        event=REMOVED if moved.version is None else MOVED,
        resource={
            "prefect.resource.id": _resource(reference),
            "prefect.resource.name": reference,
        },
        payload=moved.model_dump(mode="json"),
    )
    return event.model_dump(mode="json")
