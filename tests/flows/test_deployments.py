"""The deployments: named, described, filled in, and checked by the Prefect server."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import PrefectHTTPStatusError

from modkernel.flows.deployments import deployments
from modkernel.flows.maintenance import NAME as MAINTENANCE
from modkernel.flows.servers.registration import KeptDeployment
from modkernel.flows.train_network import train_network
from modkernel.kernels import KERNELS
from modkernel.spec import NetworkSpec

UNTOUCHED = {
    "dataset": {
        "path": None,
        "classes": None,
        "groups": None,
        "image_size": None,
        "channels": None,
    },
    "pairs": None,
    "backbone": {"width": None, "options": {"__prefect_kind": "json"}},
    "output": {"labels_per_class": None, "recipe": {"clip_norm": None, "views": None}},
}
"""What the schedule dialog of Prefect 3.9 saves of a network where nothing was filled in."""


def train_network_deployment() -> KeptDeployment:
    (made,) = (one for one in deployments() if one.name == "train-network")
    return made


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
        MAINTENANCE,
    }
    with get_client(sync_client=True) as client:
        for name, deployment in made.items():
            deployment.apply()
            kept = client.read_deployment_by_name(f"{name}/{name}")
            assert kept.description
            assert kept.enforce_parameter_schema
            assert bool(kept.parameter_openapi_schema["properties"]) == (name != MAINTENANCE)
            assert bool(kept.schedules) == (name == MAINTENANCE)
            # A person who changes nothing starts a run that the server accepts.
            client.create_flow_run_from_deployment(kept.id)


def test_the_form_explains_its_fields_and_bad_values_are_refused(prefect_server: None) -> None:
    train_network_deployment().apply()
    with get_client(sync_client=True) as client:
        kept = client.read_deployment_by_name("train-network/train-network")
        fields = kept.parameter_openapi_schema["definitions"]["HiddenSpec"]["properties"]
        assert "last block" in fields["until"]["description"]
        wrong = {"spec": {**kept.parameters["spec"], "seed": -1}}
        with pytest.raises(PrefectHTTPStatusError, match="less than the minimum of 0"):
            client.create_flow_run_from_deployment(kept.id, parameters=wrong)
        names = kept.parameter_openapi_schema["definitions"]["KernelSpec"]["properties"]["name"]
        assert names["enum"] == ["auto", *KERNELS]
        hidden = [{"kernel": {"name": "linear"}}]
        wrong = {"spec": {**kept.parameters["spec"], "hidden": hidden}}
        with pytest.raises(PrefectHTTPStatusError, match="'linear' is not one of"):
            client.create_flow_run_from_deployment(kept.id, parameters=wrong)
    assert NetworkSpec.model_validate(kept.parameters["spec"]).name == "digits"
    assert train_network.name == "train-network"


def test_a_new_form_keeps_the_default_parameters_that_fit_it(
    prefect_server: None, caplog: pytest.LogCaptureFixture
) -> None:
    made = train_network_deployment()
    made.apply()
    with get_client(sync_client=True) as client:

        def change(**fields: object) -> None:
            client.update_deployment(found.id, DeploymentUpdate.model_validate(fields))

        found = client.read_deployment_by_name("train-network/train-network")
        form = found.parameter_openapi_schema
        older = {"type": "object", "properties": {"spec": {"type": "object"}}}

        mine = {"spec": {**found.parameters["spec"], "seed": 7}}
        change(parameter_openapi_schema=older, parameters=mine)
        made.apply()
        found = client.read_deployment_by_name("train-network/train-network")
        assert (found.parameter_openapi_schema, found.parameters) == (form, mine)
        assert not caplog.messages

        change(parameter_openapi_schema=older, parameters={"spec": {"layers": 3}})
        made.apply()
        found = client.read_deployment_by_name("train-network/train-network")
        assert (found.parameter_openapi_schema, found.parameters) == (form, made.parameters)
        assert "{'spec': {'layers': 3}}" in caplog.text


def test_a_scheduled_run_reads_what_the_schedule_form_saves() -> None:
    saved = {**UNTOUCHED, "name": "by-form"}
    meant = NetworkSpec.model_validate({**saved, "backbone": {"width": None}})
    assert train_network.validate_parameters({"spec": saved}) == {"spec": meant}
    as_json = {"__prefect_kind": "json", "value": meant.model_dump_json()}
    assert train_network.validate_parameters({"spec": as_json}) == {"spec": meant}
