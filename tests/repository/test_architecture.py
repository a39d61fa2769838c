"""docs/architecture.md names files and layers that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/architecture.md"
NAMED = sorted(
    set(re.findall(r"`((?:modkernel|registry|flows|examples)/[\w/.]*)`", PAGE.read_text()))
)


def test_there_are_names_to_check() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def layers(container: str) -> list[set[str]]:
    """Those that import-linter holds inside a package, the highest first."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (found,) = [one for one in linter["contracts"] if one.get("containers") == [container]]
    return [set(layer.split(" | ")) for layer in found["layers"]]


def drawn(first: str, last: str) -> list[set[str]]:
    """Those of the picture between two of them, both included."""
    picture = re.sub(r"[│┘◄─\n]| *\(.*?\)", " ", PAGE.read_text().split("```")[1])
    (found,) = re.findall(rf"\b{first} *→.*?→ *{last}\b", picture)
    return [set(re.split(r",? +", layer.strip())) for layer in found.split("→")]


def test_the_picture_has_the_layers_that_are_held() -> None:
    assert [{"flows"}, {"registry"}, *drawn("jobs", "errors")] == layers("modkernel")
    held = [
        {"the", "flows"} if "train_network" in one else one for one in layers("modkernel.flows")
    ]
    assert drawn("cli", "runtime") == held
