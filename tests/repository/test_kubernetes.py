"""The job template of the pool of GPU jobs: a form that Prefect shows, and a hardened Job."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import prefect.context
import pytest
from jsonschema import Draft202012Validator
from prefect.client.schemas.objects import FlowRun
from prefect.context import refresh_global_settings_context
from prefect.utilities.templating import apply_values, find_placeholders
from prefect.workers.base import BaseJobConfiguration

from modkernel.flows.team.serve import LEASE_SECONDS

GLOBAL = "GLOBAL_SETTINGS_CONTEXT"
NO_CLIENT: Any = object()
"""The template names nothing of Prefect's server, so it is not asked."""
ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker/kubernetes/gpu-pool.json"
TEMPLATE: dict[str, Any] = json.loads(FILE.read_text())

# As a worker does it, with Prefect's own code and Kubernetes' own schema of a Job.
RENDER = """
import asyncio, json, sys, uuid
import kubernetes_validate
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration as Configuration

template = json.load(open(sys.argv[1]))
configuration = asyncio.run(
    Configuration.from_template_and_values(
        template, {"queue": "gpus", "env": {"A": "b"}}, client=object()
    )
)
run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="able-ant")
configuration.prepare_for_flow_run(run)
job = configuration.job_manifest
print(json.dumps(job))
# Prefect wants these two in the pod as well, where Kubernetes drops them.
for name in ("parallelism", "completions"):
    del job["spec"]["template"]["spec"][name]
kubernetes_validate.validate(job, "1.33", strict=True)
"""


def defaults() -> dict[str, Any]:
    properties = TEMPLATE["variables"]["properties"]
    return {name: one["default"] for name, one in properties.items() if "default" in one}


def check_job(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (pod["securityContext"]["runAsUser"], pod["restartPolicy"]) == (10001, "Never")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["terminationGracePeriodSeconds"] > 60, "what a checkpoint may take"
    named = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == named


def test_the_form_is_a_json_schema_that_its_own_defaults_meet() -> None:
    Draft202012Validator.check_schema(TEMPLATE["variables"])
    Draft202012Validator(TEMPLATE["variables"]).validate(defaults())
    used = {one.name for one in find_placeholders(TEMPLATE["job_configuration"])}
    assert used == set(TEMPLATE["variables"]["properties"])


def test_the_job_asks_for_one_gpu_and_its_queue_and_holds_no_secret() -> None:
    job = apply_values(TEMPLATE["job_configuration"], defaults())["job_manifest"]
    check_job(job)
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "modkernel"}
    secret = ("PASSWORD", "AUTH_STRING")
    assert not [name for name in defaults()["env"] if name.endswith(secret)]


def test_a_pod_gets_the_lease_of_a_team_and_not_the_password_of_the_worker_that_starts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect hands its own settings on, into a Job that many may read; `env` is edited by hand."""
    monkeypatch.setattr(prefect.context, GLOBAL, getattr(prefect.context, GLOBAL))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "modkernel:SECRET")
    edited = deepcopy(TEMPLATE)
    edited["variables"]["properties"]["env"]["default"] = {"MODKERNEL_DEVICE": "cuda"}

    async def environment() -> dict[str, str | None]:
        made = await BaseJobConfiguration.from_template_and_values(edited, {}, client=NO_CLIENT)
        made.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="able-ant"))
        return made.env

    def rendered() -> dict[str, str | None]:
        refresh_global_settings_context()
        return asyncio.run(environment())

    told = contextvars.Context().run(rendered)
    assert told["MODKERNEL_DEVICE"] == "cuda"
    assert told["MODKERNEL_LEASE_SECONDS"] == str(LEASE_SECONDS), "what `modkernel worker` sets"
    assert "SECRET" not in str(told)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_prefects_worker_makes_a_job_of_it_that_kubernetes_admits(tmp_path: Path) -> None:
    """Installed for the test alone: 125 MB, one of which every Prefect process would import."""
    packages = ["prefect-kubernetes", "kubernetes-validate"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path)]
    constraints = ["--constraint", str(ROOT / "requirements/constraints.txt")]
    subprocess.run([*install, *constraints, *packages], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(FILE)],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PREFECT_API_AUTH_STRING": "m:SECRET"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout
    job = json.loads(done.stdout)
    check_job(job)
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["prefect.io/flow-run-name"] == "able-ant"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    told = {one["name"]: one["value"] for one in container["env"]}
    assert told["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert told["MODKERNEL_DEVICE"] == "cuda"
