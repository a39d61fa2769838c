"""The house rules that no other tool holds."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import modkernel

ROOT = Path(__file__).parent.parent
PACKAGES = ("modkernel", "registry", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

PICKLING_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PICKLING_CALLS = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "np.save"}


def pickling(source: str) -> Iterator[str]:
    """Each use of pickle in a file, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] in PICKLING_MODULES:
                        yield f"{node.lineno}: import {name.name}"
            case ast.ImportFrom(module=str(module)):
                found = {f"{module}.{name.name}" for name in node.names} & PICKLING_CALLS
                if module.split(".")[0] in PICKLING_MODULES or found:
                    yield f"{node.lineno}: from {module} import ..."
            case ast.Attribute() if ast.unparse(node) in PICKLING_CALLS:
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.keyword(arg="allow_pickle", value=value):
                if ast.unparse(value) != "False":
                    yield f"{value.lineno}: allow_pickle={ast.unparse(value)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_on_our_paths(path: Path) -> None:
    assert list(pickling(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import os, joblib",
        "from cloudpickle import dumps",
        "from torch import load",
        "import torch\ntorch.load(p)",
        "f = torch.save",
        "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=flag)",
    ],
)
def test_the_pickle_check_finds_each_form(line: str) -> None:
    if line == "from torch import load":
        line = "from torch import load as read"
    assert list(pickling(line))


def test_files_are_small() -> None:
    long = {str(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_the_public_names_are_real() -> None:
    names = list(modkernel.__all__)
    assert len(names) > 40
    assert [name for name in names if not hasattr(modkernel, name)] == []
    assert set(names) <= set(dir(modkernel))


def test_the_core_imports_without_the_rest() -> None:
    """On a machine with torch and pydantic alone, every module of the core still imports."""
    code = """
import importlib, pkgutil, sys
for name in ("alembic", "fastapi", "matplotlib", "mlflow", "pandas", "prefect", "pyarrow",
             "pydantic_settings", "rich", "sqlalchemy", "typer", "yaml"):
    sys.modules[name] = None
import modkernel
for name in modkernel.__all__:
    getattr(modkernel, name)
for top in pkgutil.iter_modules(modkernel.__path__, "modkernel."):
    if top.name not in ("modkernel.flows", "modkernel.registry"):
        package = importlib.import_module(top.name)
        for module in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{top.name}."):
            importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for package in (*PACKAGES, "examples"):
        shutil.copytree(ROOT / package, source / package, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    code = "from setuptools.build_meta import build_wheel as b; import sys; b(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        demo = archive.read("modkernel/flows/specs/demo.yaml")
    wanted = {
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    one_name = {str(p) if p.parts[0] == "modkernel" else f"modkernel/{p}" for p in wanted}
    assert inside == one_name
    assert demo == (ROOT / "examples/digits.yaml").read_bytes()


def test_make_sets_up_once_and_again_when_stale(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    pyproject, ready = tmp_path / "pyproject.toml", tmp_path / ".venv/ready"
    constraints = tmp_path / "requirements/constraints.txt"
    constraints.parent.mkdir()
    sources = (pyproject, constraints)

    def plan(target: str) -> str:
        command = ["make", "--dry-run", target]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    for source in sources:
        source.touch()
    for target in ("demo", "test"):
        assert "-m venv" in plan(target)
    ready.parent.mkdir()
    ready.touch()
    for source in sources:
        os.utime(source, (1, 1))
    for target in ("demo", "test"):
        assert "-m venv" not in plan(target)
    for source in sources:
        os.utime(source)
        os.utime(ready, (2, 2))
        assert "-m venv" in plan("demo")
        os.utime(source, (1, 1))
        assert "-m venv" not in plan("demo")


def test_make_test_runs_every_check() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "test"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert tool in plan
    assert "make test" in (ROOT / ".ci/run").read_text()
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)


# --- docker/ ---------------------------------------------------------------------------------

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
