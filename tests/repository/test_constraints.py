"""The versions that the tests proved are written down, and everything installs with them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "requirements/constraints.txt"
PINS = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]


def test_every_line_is_one_that_any_index_has() -> None:
    """No path, no link, no editable install and no local version such as 2.14.1+cpu."""
    assert len({line.split("==")[0] for line in PINS}) == len(PINS) > 100
    assert [line for line in PINS if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    of_one_build = re.compile("nvidia|cuda|triton")
    assert [line for line in PINS if of_one_build.match(line)] == []


def test_every_requirement_of_ours_is_pinned_to_what_it_admits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = dict(line.split("==") for line in PINS)
    for text in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in versions, f"{text}: run 'make constraints'"
        assert versions[name] in wanted.specifier, text


def test_these_versions_are_the_ones_that_run_the_tests() -> None:
    """Otherwise: `make constraints`, and `make test` with what it wrote."""
    done = subprocess.run(
        [sys.executable, "requirements/pin.py"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    here = {line for line in done.stdout.splitlines() if not line.startswith("#")}
    assert here - set(PINS) == set()


def test_make_and_the_image_install_with_them() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    install = "--constraint requirements/constraints.txt"
    assert install in plan
    docker = (ROOT / "docker/Dockerfile").read_text()
    assert docker.count("pip install --quiet --constraint constraints.txt") == 2
    assert "!requirements/constraints.txt\n" in (ROOT / ".dockerignore").read_text()
    newest = subprocess.run(
        ["make", "--dry-run", "newest"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert "--constraint" not in newest
    assert "requirements/test_smoke.py" in newest
