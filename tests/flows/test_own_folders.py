"""A folder that holds packages of the user's own, called flows, registry and tests, is no harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType

from modkernel.flows.maintenance import NAME
from modkernel.flows.servers.up import running
from modkernel.registry import Settings
from tests.flows.browser.test_train_and_promote import wait_until
from tests.flows.helpers.prefect_client import deployment, prefect_client
from tests.flows.test_cli_up import ROOT, surroundings

OWN = ("flows", "registry", "tests")


def own_folder(folder: Path) -> Path:
    """A folder with a package of each name, which fails when it is imported."""
    for name in OWN:
        package = folder / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"raise SystemExit('the user's own {name}')\n")
    return folder


@pytest.mark.servers
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_demo_and_runs_of_up_work_in_a_folder_with_such_packages(tmp_path: Path) -> None:
    folder, home = own_folder(tmp_path / "project"), tmp_path / "home"
    environment, _, prefect_port = surroundings(home)
    environment["PYTHONPATH"] = os.pathsep.join((".", str(ROOT)))
    command = [sys.executable, "-m", "modkernel.flows.cli"]
    log = tmp_path / "up.log"
    with (
        log.open("w") as file,
        subprocess.Popen([*command, "up"], cwd=folder, env=environment, stderr=file) as process,
    ):
        try:
            deadline = time.monotonic() + 600
            while running(Settings(home=home)) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            demo = subprocess.run(
                [*command, "demo"], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert demo.returncode == 0, demo.stderr
            assert "in all" in demo.stdout + demo.stderr
            with prefect_client(f"http://127.0.0.1:{prefect_port}", home) as client:
                run = client.create_flow_run_from_deployment(deployment(client, NAME).id)

                def ended() -> bool:
                    state = client.read_flow_run(run.id).state
                    return state is not None and state.is_final()

                wait_until(ended, 600, "the run ends")
                assert client.read_flow_run(run.id).state_type == StateType.COMPLETED
        finally:
            process.terminate()
            process.wait(timeout=90)
    assert process.returncode == 0, log.read_text()


def test_the_wheel_brings_one_name(tmp_path: Path) -> None:
    source, site = tmp_path / "source", own_folder(tmp_path / "site")
    for name in ("modkernel", "registry", "flows", "examples"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    before = {path: path.read_bytes() for path in site.rglob("*.py")}
    code = "from setuptools.build_meta import build_wheel as b; import sys; b(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*install, "--disable-pip-version-check", "--target", site, wheel],
        check=True,
        capture_output=True,
    )
    assert {path: path.read_bytes() for path in before} == before
    made = {path.name for path in site.iterdir()} - set(OWN) - {"bin"}
    assert {name for name in made if not name.endswith(".dist-info")} == {"modkernel"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import modkernel.flows.cli.app as app; print(app.__file__)"],
        cwd=site,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)
