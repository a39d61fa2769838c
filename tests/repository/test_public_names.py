"""The front door: public names, and a core that imports without the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import modkernel

ROOT = Path(__file__).parents[2]


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
# Together they take as long as torch: what needs them imports them.
slow = {"torchvision", "torch._dynamo", "sklearn", "scipy"} & set(sys.modules)
assert not slow, slow
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
