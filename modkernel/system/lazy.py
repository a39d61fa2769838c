"""Packages whose public names are imported when they are first used."""

from __future__ import annotations

import ast
from pathlib import Path


def homes(file: str) -> dict[str, str]:
    """The module that each public name of a package is from.

    Args:
        file: the package's `__init__.py`, with one block `if TYPE_CHECKING:` of imports, which are
            read and never run.
    """
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
