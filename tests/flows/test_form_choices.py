"""The forms that `modkernel up` serves: choices follow the registry, wrong values are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from sqlalchemy import update

from modkernel.registry import Registry, Settings
from modkernel.registry.sql.tables import ModuleRow
from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny

PATIENCE = 60
TOP = "chosen.hidden-2"


def choices(client: SyncPrefectClient, name: str, field: str) -> list[str]:
    form = deployment(client, name).parameter_openapi_schema
    assert form is not None
    shown: dict[str, Any] = form["properties"][field]
    found: list[str] = shown.get("items", shown)["enum"]
    return found


@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_is_stored_is_a_choice_as_long_as_it_is_there(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(tiny("chosen").model_dump_json())
    with (
        prefect_client(up.prefect, up.home) as client,
        Registry.open(Settings(home=up.home)) as registry,
    ):

        def offers(reference: str, name: str = "compose-network", field: str = "hidden") -> bool:
            return reference in choices(client, name, field)

        def becomes_a_choice(*asked: str) -> None:
            wait_until(lambda: offers(*asked), PATIENCE, f"a choice: {asked}")

        assert not offers(TOP)
        up.modkernel("train", str(path))
        becomes_a_choice(TOP)
        becomes_a_choice(f"{TOP}/1")
        becomes_a_choice(TOP, "train-module", "upstream")
        becomes_a_choice(TOP, "measure-modules", "modules")
        becomes_a_choice("chosen", "retrain-network", "network")
        for stage in ("1", "2", "output"):
            becomes_a_choice(stage, "retrain-network", "stage")

        # As MLflow's page does it.
        registry.backends.models.set_alias(TOP, "night", 1)
        becomes_a_choice(f"{TOP}@night")

        # As `repair` does it where the bytes are gone.
        with registry.backends.database.writing() as session:
            session.execute(update(ModuleRow).where(ModuleRow.name == TOP).values(state="LOST"))
        wait_until(lambda: not offers(TOP), PATIENCE, "it is no choice any more")
        assert not offers(f"{TOP}/1")
        assert not offers(f"{TOP}@night")


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_a_wrong_value_is_refused_or_told_in_one_line(up: Up) -> None:
    with prefect_client(up.prefect, up.home) as client:
        found = deployment(client, "compose-network")
        with pytest.raises(PrefectHTTPStatusError, match="'nobody' is not one of"):
            client.create_flow_run_from_deployment(found.id, parameters={"hidden": "nobody"})
        # Each field is allowed, all of them are not.
        wrong = {"path": "/data"}
        found = deployment(client, "train-module")
        run = client.create_flow_run_from_deployment(found.id, parameters=wrong)
        state = wait_for_end(client, run.id).state
    assert state is not None
    assert state.type == StateType.FAILED
    assert state.message is not None
    assert "'path' tells more of a data set: choose the 'dataset', too." in state.message
    assert "\n" not in state.message
