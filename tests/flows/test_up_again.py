"""What waits while `modkernel up` is off, and goes on when it starts again, on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from modkernel.flows.stored_modules.promote_module import Decision
from modkernel.registry import Registry, Settings
from tests.flows.helpers.prefect_client import ask_for_decision, prefect_client, wait_for_end
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import running_up, surroundings
from tests.flows.helpers.specs import tiny
from tests.registry.conftest import POSTGRES_PARAM, close_mlflow, postgres, postgres_server

__all__ = ["postgres", "postgres_server"]

HIDDEN = "again.hidden-1"
PATIENCE = 300
pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(params=["sqlite", POSTGRES_PARAM])
def home(
    request: pytest.FixtureRequest, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A home whose stores are both SQLite files, or both one PostgreSQL database."""
    folder = tmp_path / "home"
    shutil.copytree(template, folder)
    if request.param == "postgresql":
        url = f"{request.getfixturevalue('postgres_server')}/postgres"
        monkeypatch.setenv("MODKERNEL_DATABASE_URL", url)
        monkeypatch.setenv("MODKERNEL_MLFLOW_URI", url)
    yield folder
    close_mlflow(Settings(home=folder).mlflow_uri)


def state(client: SyncPrefectClient, run: UUID) -> str | None:
    found = client.read_flow_run(run).state
    assert found is None or not found.is_final(), found
    return None if found is None else found.name


def test_followers_and_gates_outlive_a_restart(home: Path, tmp_path: Path) -> None:
    environment, _, _ = surroundings(home)
    spec = tmp_path / "spec.json"
    with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
        for seed in (1, 2):
            spec.write_text(tiny("again", (1,), seed).model_dump_json())
            up.modkernel("train", str(spec))
        up.modkernel("modules", "promote", f"{HIDDEN}/1", "best")
        up.modkernel("modules", "promote", f"{HIDDEN}/1", "gate")
        composed = ("compose", f"{HIDDEN}@best", "--name", "follower", "--method", "ridge")
        up.modkernel(*composed, "--follow")
        waiting = ask_for_decision(client, f"{HIDDEN}/2", "gate")
    with Registry.open(Settings(home=home)) as registry:
        (first,) = registry.networks.find("follower")
        newer = registry.modules.resolve(f"{HIDDEN}/2")
        # As a person does in MLflow's page, while nobody looks.
        registry.backends.client.set_registered_model_alias(HIDDEN, "best", "2")
        assert registry.promotions.history(HIDDEN)[-1].version == 1
        with running_up(home, environment) as up, prefect_client(up.prefect, home) as client:
            wait_until(
                lambda: len(registry.networks.find("follower")) == 2,
                PATIENCE,
                "the network is composed again",
            )
            _, second = registry.networks.find("follower")
            assert newer.id in second.module_ids
            assert newer.id not in first.module_ids
            assert state(client, waiting) == "Suspended"
            decision = Decision(promote=True, comment="after the restart")
            client.resume_flow_run(waiting, run_input=decision.model_dump(mode="json"))
            assert wait_for_end(client, waiting).state_type == StateType.COMPLETED
            moves = [one for one in registry.promotions.history(HIDDEN) if one.alias == "gate"]
            assert [(one.version, one.reason) for one in moves] == [
                (1, None),
                (2, "after the restart"),
            ]
