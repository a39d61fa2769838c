"""Packages whose public names are imported when they are first used."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[list[str], Callable[[str], Any]]:
    """A package's public names, and its `__getattr__`, which imports each when it is first used.

    Args:
        package: its `__name__`.
        file: its `__init__.py`, with one block `if TYPE_CHECKING:` of imports, which are read and
            never run.
    """
    homes = _homes(file)

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(homes[name]), name)

    return sorted(homes), find


def _homes(file: str) -> dict[str, str]:
    """The module that each public name is from."""
    (block,) = (
        node
        for node in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )
    return {
        name.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
    }
