"""What a run says of a user's error: one line in its state and on its logs tab, no traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from modkernel.errors import SpecError
from modkernel.flows.compose_network import compose_network
from modkernel.flows.train_network import train_network
from modkernel.spec import HiddenSpec, KernelSpec
from tests.flows.helpers.prefect_client import prefect_client, wait_for_end
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up, get
from tests.flows.helpers.specs import tiny


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_a_users_error_is_one_line(up: Up) -> None:
    spec = tiny().changed(hidden=(HiddenSpec(kernel=KernelSpec(name="relu_avgpool")),))
    with prefect_client(up.prefect, up.home) as client:
        found = client.read_deployment_by_name("train-network/train-network")
        parameters = {"spec": spec.model_dump(mode="json")}
        run = client.create_flow_run_from_deployment(found.id, parameters=parameters)
        state = wait_for_end(client, run.id).state
    assert state is not None
    assert state.type == StateType.FAILED
    assert state.message is not None
    told = "hidden[0].kernel: Kernel 'relu_avgpool' takes maps"
    assert told in state.message
    assert "\n" not in state.message

    def logged() -> list[str]:
        asked: dict[str, Any] = {"logs": {"flow_run_id": {"any_": [str(run.id)]}}}
        return [one["message"] for one in json.loads(get(*ask(asked)))]

    def ask(body: dict[str, Any]) -> tuple[str, dict[str, Any], str]:
        return f"{up.prefect}/api/logs/filter", body, up.password

    wait_until(lambda: any("Finished in state" in line for line in logged()), 60, "the logs")
    assert any(line.startswith(told) for line in logged())
    assert not any("Traceback" in line for line in logged())


@pytest.mark.parametrize(
    ("run", "parameters", "told"),
    [
        (
            train_network,
            {"spec": {"name": "a", "hidden": [{"recipe": {"epochs": 0}}], "sede": 1}},
            r"^'spec\.hidden\[0\]\.recipe\.epochs' is 0: .*; unknown field 'spec\.sede' \(use one",
        ),
        (
            compose_network,
            {"name": "a", "hidden": 3},
            r"^'hidden\[0\]' is 3, but must be text: .*\.$",
        ),
    ],
)
def test_wrong_parameters_are_told_by_field(
    run: Any, parameters: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError, match=told):
        run.validate_parameters(parameters)
