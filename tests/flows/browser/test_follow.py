"""A network that follows an alias is composed again when somebody moves the alias in MLflow."""

from __future__ import annotations

import json
import os
import time

import pytest
from mlflow import MlflowClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import StateType

from modkernel.flows.compose_network import as_filled_in
from modkernel.flows.deployments.forms.modules import CompositionForm
from modkernel.registry import NetworkRecord, Registry, Settings
from modkernel.spec import DatasetSpec, OutputSpec, Recipe
from modkernel.system.files import hash_file
from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny

PATIENCE = 90
HIDDEN = "leader.hidden-2"


def bytes_of(registry: Registry, network: NetworkRecord) -> list[str]:
    before = os.umask(0o077)  # As of a command: what is brought into the home is its user's alone.
    try:
        return [
            hash_file(file)
            for module in registry.networks.members(network)
            for file in sorted(registry.modules.fetch(module).folder.iterdir())
        ]
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def two_versions(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Up:
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    for seed in (0, 1):
        path.write_text(tiny("leader").changed(seed=seed).model_dump_json())
        up.modkernel("train", str(path))
    return up


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_moving_an_alias_in_mlflow_composes_what_follows_it(two_versions: Up) -> None:
    up = two_versions
    promoted = up.modkernel("modules", "promote", f"{HIDDEN}/1", "best", "--reason", "the first")
    assert (promoted["version"], promoted["reason"]) == (1, "the first")
    composed = ("compose", f"{HIDDEN}@best", "--name", "follower", "--method", "ridge", "--follow")
    up.modkernel(*composed)
    with Registry.open(Settings(home=up.home)) as registry:
        (first,) = registry.networks.find("follower")
        before = bytes_of(registry, first)
        newer = registry.modules.resolve(f"{HIDDEN}/2")
        # What MLflow's page asks its server.
        MlflowClient(up.mlflow).set_registered_model_alias(HIDDEN, "best", "2")
        began = time.monotonic()
        wait_until(
            lambda: len(registry.networks.find("follower")) == 2,
            PATIENCE,
            "the network is composed again",
        )
        print(f"composed again {time.monotonic() - began:.0f} s after the alias was moved")
        _, second = registry.networks.find("follower")
        assert newer.id in second.module_ids
        assert newer.id not in first.module_ids
        assert bytes_of(registry, first) == before
        history = registry.promotions.history(HIDDEN)
        assert [(one.before, one.version, one.who is None) for one in history] == [
            (None, 1, False),
            (1, 2, True),
        ]
        with prefect_client(up.prefect, up.home) as client:
            (automation,) = [one for one in client.read_automations() if "follows" in one.name]
            assert automation.name == f"modkernel: network follower follows {HIDDEN}@best"
            client.delete_automation(automation.id)


@pytest.mark.servers
@pytest.mark.timeout(600)
@pytest.mark.parametrize("promote", [False, True])
def test_a_person_decides_on_a_promotion(two_versions: Up, promote: bool) -> None:
    up, alias = two_versions, f"gate-{promote}"
    up.modkernel("modules", "promote", f"{HIDDEN}/1", alias)
    with prefect_client(up.prefect, up.home) as client:
        gate = deployment(client, "promote-module").id

        def is_a_choice() -> bool:
            form = client.read_deployment(gate).parameter_openapi_schema or {}
            return f"{HIDDEN}/2" in form["properties"]["module"]["enum"]

        wait_until(is_a_choice, 60, "the candidate is a choice")
        made = client.create_flow_run_from_deployment(
            gate,
            parameters={"module": f"{HIDDEN}/2", "alias": alias},
        )

        def waits() -> bool:
            state = client.read_flow_run(made.id).state
            assert state is None or not state.is_final(), state
            return state is not None and state.name == "Suspended"

        wait_until(waits, 120, "the run waits for a decision")
        key = f"promotion-leader-hidden-2-{alias.lower()}"
        (page,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        )
        for shown in (f"@{alias} now | candidate", f"module | {HIDDEN}/1 | {HIDDEN}/2", " % "):
            assert shown in str(page.data)
        decision = {"promote": promote, "comment": "seen by me"}
        client.resume_flow_run(made.id, run_input=decision)
        assert wait_for_end(client, made.id).state_type == StateType.COMPLETED
    with Registry.open(Settings(home=up.home)) as registry:
        moves = [one for one in registry.promotions.history(HIDDEN) if one.alias == alias]
        assert [(one.version, one.reason) for one in moves] == [
            (1, None),
            *([(2, "seen by me")] if promote else []),
        ]


@pytest.mark.parametrize(
    ("dataset", "output"),
    [
        (None, OutputSpec()),
        (DatasetSpec(), OutputSpec(method="ridge", labels_per_class=1, draws=3)),
        (
            DatasetSpec(name="image_folder", path="/data/p", classes=("a", "b"), image_size=(8, 6)),
            OutputSpec(recipe=Recipe(epochs=3, optimizer="adam"), minimum_steps=7),
        ),
    ],
)
def test_what_a_follower_is_made_of_again_is_what_it_was_made_of(
    dataset: DatasetSpec | None, output: OutputSpec
) -> None:
    values = as_filled_in("net", "a@b", dataset, output, 0, None)
    again = CompositionForm.model_validate(json.loads(json.dumps(values))).parameters()
    assert again == {
        "name": "net",
        "hidden": "a@b",
        "dataset": dataset,
        "output": output,
        "seed": 0,
        "labels": None,
        "follow": False,
    }
