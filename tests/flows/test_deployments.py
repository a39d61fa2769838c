"""The deployments: named, described, filled in, and checked by the Prefect server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import PrefectHTTPStatusError

from modkernel.flows.deployments.forms.follow import offer
from modkernel.flows.deployments.serve import deployments
from modkernel.flows.maintenance import NAME as MAINTENANCE
from modkernel.flows.servers.registration import KeptDeployment
from modkernel.flows.train_network import train_network
from modkernel.kernels import KERNELS
from modkernel.registry import StoredNames
from modkernel.spec import NetworkSpec

STORED = StoredNames(
    modules=("a.hidden-1", "a.hidden-1/1"), networks=("a",), stages=("1", "output")
)
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


@pytest.fixture(scope="module")
def made(prefect_server: str) -> dict[str, KeptDeployment]:
    """All deployments by name."""
    return {deployment.name: deployment for deployment in deployments(STORED)}


def test_every_flow_has_a_deployment_with_a_form(made: dict[str, KeptDeployment]) -> None:
    assert set(made) == {
        "train-network",
        "train-module",
        "compose-network",
        "train-baseline",
        "retrain-network",
        "search-modules",
        "transfer-study",
        "measure-modules",
        "stitch-modules",
        "promote-module",
        MAINTENANCE,
    }
    with get_client(sync_client=True) as client:
        for name, deployment in made.items():
            deployment.apply()
            kept = client.read_deployment_by_name(f"{name}/{name}")
            assert kept.description
            assert kept.enforce_parameter_schema
            assert kept.parameter_openapi_schema["type"] == "object"
            fields = kept.parameter_openapi_schema["properties"]
            assert bool(fields) == (name != MAINTENANCE)
            assert bool(kept.schedules) == (name == MAINTENANCE)
            # A person who changes nothing starts a run that the server accepts.
            shown = {name: field["default"] for name, field in fields.items() if "default" in field}
            client.create_flow_run_from_deployment(kept.id, parameters=shown)


def test_the_form_explains_its_fields_and_bad_values_are_refused(
    made: dict[str, KeptDeployment],
) -> None:
    made["train-network"].apply()
    with get_client(sync_client=True) as client:
        kept = client.read_deployment_by_name("train-network/train-network")
        fields = kept.parameter_openapi_schema["properties"]
        assert "blocks" in fields["hidden_modules"]["description"]
        assert fields["kernel"]["enum"] == ["auto", *KERNELS]
        for wrong, told in (
            ({"epochs": 0}, "less than the minimum of 1"),
            ({"kernel": "linear"}, "'linear' is not one of"),
            (
                {"advanced": {"training": {"momentum": 2}}},
                "greater than or equal to the maximum of 1",
            ),
        ):
            with pytest.raises(PrefectHTTPStatusError, match=told):
                client.create_flow_run_from_deployment(kept.id, parameters=wrong)


def test_a_new_form_keeps_the_default_parameters_that_fit_it(
    made: dict[str, KeptDeployment], caplog: pytest.LogCaptureFixture
) -> None:
    train = made["train-network"]
    train.apply()
    with get_client(sync_client=True) as client:

        def change(**fields: object) -> None:
            client.update_deployment(found.id, DeploymentUpdate.model_validate(fields))

        found = client.read_deployment_by_name("train-network/train-network")
        form = found.parameter_openapi_schema
        older = {"type": "object", "properties": {"epochs": {"type": "integer"}}}

        mine = {"epochs": 7}
        change(parameter_openapi_schema=older, parameters=mine)
        train.apply()
        found = client.read_deployment_by_name("train-network/train-network")
        assert (found.parameter_openapi_schema, found.parameters) == (form, mine)
        assert not caplog.messages

        change(parameter_openapi_schema=older, parameters={"epochs": -3})
        train.apply()
        found = client.read_deployment_by_name("train-network/train-network")
        assert (found.parameter_openapi_schema, found.parameters) == (form, train.parameters)
        assert "{'epochs': -3}" in caplog.text


def test_choices_change_and_what_is_set_and_scheduled_stays(
    made: dict[str, KeptDeployment],
) -> None:
    """Prefect deletes the runs to come of a deployment that changes: they are made again."""
    compose = made["compose-network"]
    compose.apply()
    soon = IntervalSchedule(
        interval=timedelta(hours=1), anchor_date=datetime.now(UTC) + timedelta(minutes=30)
    )
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("compose-network/compose-network")
        client.update_deployment(found.id, DeploymentUpdate(parameters={"hidden": "a.hidden-1/1"}))
        client.create_deployment_schedules(found.id, [DeploymentScheduleCreate(schedule=soon)])

        def times() -> list[datetime]:
            # Those of other tests have none.
            runs = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    deployment_id=FlowRunFilterDeploymentId(any_=[found.id])
                )
            )
            return sorted(
                run.expected_start_time
                for run in runs
                if run.auto_scheduled and run.expected_start_time
            )

        asyncio.run(compose.refresh())
        client._client.post(f"/deployments/{found.id}/schedule", json={})
        before = times()
        assert before
        offer([compose], STORED.model_copy(update={"modules": ("b.hidden-1",)}))
        asyncio.run(compose.refresh())
        # The test's server has no scheduler that would help.
        assert times() == before
        found = client.read_deployment_by_name("compose-network/compose-network")
        choices = found.parameter_openapi_schema["properties"]["hidden"]["enum"]
        assert choices == ["b.hidden-1", "a.hidden-1/1"], "a person's default stays a choice"
        assert found.parameters == {"hidden": "a.hidden-1/1"}
        client.delete_deployment(found.id)


def test_a_scheduled_run_reads_what_the_schedule_form_saves() -> None:
    saved = {**UNTOUCHED, "name": "by-form"}
    meant = NetworkSpec.model_validate({**saved, "backbone": {"width": None}})
    assert train_network.validate_parameters({"spec": saved}) == {"spec": meant}
    as_json = {"__prefect_kind": "json", "value": meant.model_dump_json()}
    assert train_network.validate_parameters({"spec": as_json}) == {"spec": meant}
