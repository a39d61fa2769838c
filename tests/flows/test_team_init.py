"""`modkernel team init`, again and again, against a real Prefect server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate

from modkernel.flows.deployments.serve import deployments, make_team
from modkernel.flows.servers.work_pools import ABOUT, FLOWS, GPU
from modkernel.flows.team import dispatch
from modkernel.flows.team.dispatch import FLOW, sends_work
from modkernel.registry import Registry


@pytest.fixture
def no_team(prefect_server: str) -> Iterator[None]:
    """Other tests of this server are to find none."""
    dispatch.forget_team()
    yield
    with get_client(sync_client=True) as client:
        for name in ABOUT:
            client.delete_work_pool(name)
    dispatch.forget_team()


def pool_of(name: str) -> str | None:
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(f"{name}/{name}").work_pool_name


@pytest.mark.usefixtures("no_team")
def test_a_team_is_made_once_and_what_people_set_stays(registry: Registry) -> None:
    train = next(one for one in deployments() if one.name == "train-network")
    train.apply()  # As 'modkernel up' made it before there was a team.
    assert pool_of("train-network") is None
    assert not dispatch.there_is_a_team()
    assert any("Made work pool 'gpu'" in line for line in make_team())
    assert (pool_of("train-network"), pool_of(FLOW)) == (FLOWS, GPU)
    with get_client(sync_client=True) as client:
        client.update_work_pool(GPU, WorkPoolUpdate(concurrency_limit=3))
        kept = client.read_deployment_by_name(f"{FLOW}/{FLOW}")
        client.update_deployment(kept.id, DeploymentUpdate(tags=["night"]))
    assert not any("Made" in line for line in make_team())
    with get_client(sync_client=True) as client:
        assert client.read_work_pool(GPU).concurrency_limit == 3
        assert client.read_deployment_by_name(f"{FLOW}/{FLOW}").tags == ["night"]
    dispatch.forget_team()
    assert dispatch.there_is_a_team()
    assert not sends_work(registry.settings), "nothing is sent without a flow"
