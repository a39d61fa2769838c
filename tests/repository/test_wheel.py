"""The wheel: one installed name, and every file in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.flows.helpers.own_packages import OWN, own_folder

ROOT = Path(__file__).parents[2]
PACKAGES = ("modkernel", "registry", "flows")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for package in (*PACKAGES, "examples"):
        shutil.copytree(ROOT / package, source / package, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    code = "from setuptools.build_meta import build_wheel as b; import sys; b(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, check=True, capture_output=True
    )
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_holds_every_file(wheel: Path) -> None:
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


def test_the_wheel_brings_one_name_beside_packages_of_a_users_own(
    wheel: Path, tmp_path: Path
) -> None:
    site = own_folder(tmp_path / "site")
    before = {path: path.read_bytes() for path in site.rglob("*.py")}
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
