"""The Docker files: linted, hardened, and without a secret that has a default."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

COMPOSE = ROOT / "docker/compose.yaml"
SECRETS = {"POSTGRES_PASSWORD": "x1", "PREFECT_AUTH": "a:b"}


def tool(name: str) -> str:
    """A linter of the dev extra, beside this interpreter or on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (pip install -e '.[dev]')")
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)),
        ("compose-lint", "check", "--fail-on", "high", str(COMPOSE)),
        ("hadolint", "--failure-threshold", "info", str(ROOT / "docker/Dockerfile")),
    ],
    ids=lambda command: command[0],
)
def test_docker_files_pass_the_linters(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [tool(command[0]), *command[1:]],
        env=os.environ | SECRETS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_services_are_hardened_and_watched() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert set(services) == {"postgres", "mlflow", "prefect", "worker"}
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["user"] not in ("", "root", "0"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    prefect, mlflow = services["prefect"]["environment"], services["mlflow"]["environment"]
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?")
    assert "*" not in prefect["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    assert prefect["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert prefect["PREFECT_UI_STATIC_DIRECTORY"].startswith("/tmp/")
    assert mlflow["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert mlflow["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert any(part.startswith("--allowed-hosts=") for part in services["mlflow"]["command"])


def test_no_secret_has_a_default() -> None:
    text = COMPOSE.read_text()
    for name in SECRETS:
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
        assert f"\n{name}=\n" in (ROOT / "docker/.env.example").read_text()
