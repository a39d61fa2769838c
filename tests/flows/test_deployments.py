"""The deployments: named, described, filled in, and checked by the Prefect server."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from modkernel.flows.deployments import deployments
from modkernel.flows.train_network import train_network
from modkernel.spec import NetworkSpec


def test_every_flow_has_a_deployment_with_a_form(prefect_server: None) -> None:
    made = {deployment.name: deployment for deployment in deployments()}
    assert set(made) == {
        "train-network",
        "train-module",
        "compose-network",
        "train-baseline",
        "retrain-network",
        "search-modules",
        "transfer-study",
        "measure-modules",
        "maintenance",
    }
    with get_client(sync_client=True) as client:
        for name, deployment in made.items():
            deployment.apply()
            kept = client.read_deployment_by_name(f"{name}/{name}")
            assert kept.description
            assert kept.enforce_parameter_schema
            assert bool(kept.parameter_openapi_schema["properties"]) == (name != "maintenance")
            assert bool(kept.schedules) == (name == "maintenance")
            # A person who changes nothing starts a run that the server accepts.
            client.create_flow_run_from_deployment(kept.id)


def test_the_form_explains_its_fields_and_bad_values_are_refused(prefect_server: None) -> None:
    (deployment,) = (d for d in deployments() if d.name == "train-network")
    deployment.apply()
    with get_client(sync_client=True) as client:
        kept = client.read_deployment_by_name("train-network/train-network")
        fields = kept.parameter_openapi_schema["definitions"]["HiddenSpec"]["properties"]
        assert "last block" in fields["until"]["description"]
        wrong = {"spec": {**kept.parameters["spec"], "seed": -1}}
        with pytest.raises(PrefectHTTPStatusError, match="less than the minimum of 0"):
            client.create_flow_run_from_deployment(kept.id, parameters=wrong)
    assert NetworkSpec.model_validate(kept.parameters["spec"]).name == "digits"
    assert train_network.name == "train-network"
