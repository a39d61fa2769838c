"""A working folder that holds packages of the user's own with the names of our three folders."""

from __future__ import annotations

import os
from pathlib import Path

from tests.flows.helpers.processes import ROOT

OWN = ("flows", "registry", "tests")


def own_folder(folder: Path) -> Path:
    """A folder with a package of each of our folders' names, which ends whoever imports it."""
    for name in OWN:
        package = folder / name
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(f"raise SystemExit('the user's own {name}')\n")
    return folder


def searched_first(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which Python looks into the working folder before anything else."""
    return environment | {"PYTHONPATH": os.pathsep.join((".", str(ROOT)))}
