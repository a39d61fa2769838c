"""A network that follows an alias is composed again when somebody moves the alias in MLflow."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from modkernel.flows.compose_network import as_filled_in
from modkernel.flows.deployments.forms.modules import CompositionForm
from modkernel.registry import NetworkRecord, Registry, Settings
from modkernel.spec import DatasetSpec, OutputSpec, Recipe
from modkernel.system.files import hash_file
from tests.flows.helpers.prefect_client import prefect_client
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny

PATIENCE = 90
HIDDEN = "leader.hidden-2"


def bytes_of(registry: Registry, network: NetworkRecord) -> list[str]:
    return [
        hash_file(file)
        for module in registry.networks.members(network)
        for file in sorted(registry.modules.fetch(module).folder.iterdir())
    ]


@pytest.mark.servers
@pytest.mark.timeout(600)
def test_moving_an_alias_in_mlflow_composes_what_follows_it(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    for seed in (0, 1):
        path.write_text(tiny("leader").changed(seed=seed).model_dump_json())
        up.modkernel("train", str(path))
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
