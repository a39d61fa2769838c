"""The work pools of a team, and whether the Prefect server in use has them."""

from __future__ import annotations

from typing import Literal

from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

Pool = Literal["flows", "gpu"]
FLOWS: Pool = "flows"
GPU: Pool = "gpu"
ABOUT: dict[Pool, str] = {
    FLOWS: "Flows: they plan, wait and compare, and hold no device.",
    GPU: "Modules, each trained or measured on one device.",
}


async def make_pools(client: PrefectClient) -> list[Pool]:
    """Make the pools that are not there; those that are stay as people set them.

    Returns:
        The pools that were made.
    """
    made: list[Pool] = []
    for name, description in ABOUT.items():
        if not await has_pool(client, name):
            template = ProcessWorker.get_default_base_job_template()
            pool = WorkPoolCreate(
                name=name,
                type=ProcessWorker.type,
                description=description,
                base_job_template=template,
            )
            await client.create_work_pool(pool)
            made.append(name)
    return made


async def missing_pools(client: PrefectClient) -> list[Pool]:
    """The pools of a team that the server does not have."""
    return [name for name in ABOUT if not await has_pool(client, name)]


async def has_pool(client: PrefectClient, name: Pool) -> bool:
    """Whether the server has a pool."""
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        return False
    return True


def has_team(client: SyncPrefectClient) -> bool:
    """Whether the server has the pools of a team."""
    try:
        for name in ABOUT:
            client.read_work_pool(name)
    except ObjectNotFound:
        return False
    return True
