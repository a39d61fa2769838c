"""The job template of the pool of GPU jobs: a form that Prefect shows, and a hardened Job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prefect.utilities.templating import apply_values, find_placeholders

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
    Configuration.from_template_and_values(template, {"queue": "gpus", "env": {"A": "b"}})
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
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    check_job(job)
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["prefect.io/flow-run-name"] == "able-ant"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == [
        *("prefect", "flow-run", "execute")
    ]
