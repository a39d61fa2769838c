"""What holds for every source file: no pickle, and no file that is too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PACKAGES = ("modkernel", "registry", "flows")
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.resolve() == path
)


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
