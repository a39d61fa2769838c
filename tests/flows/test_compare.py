"""Stored modules beside one another, and drawn on one another."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from modkernel.registry import Registry, Settings
from tests.flows.helpers.commands import run_here
from tests.registry.helpers.examples import EVALUATION, Examples, store_one
from tests.registry.helpers.stored_homes import close_mlflow, copy_home


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(home=tmp_path / "home")
    copy_home(tmp_path_factory, "chain", settings.home, tmp_path / "trained")
    with Registry.open(settings) as registry:
        ids = [record.id for record in registry.modules.find()]
        registry.networks.add("a<b", ids, EVALUATION)
        store_one(registry, Examples(tmp_path / "trained").first(seed=3))
    close_mlflow(settings.mlflow_uri)
    return settings.home


def test_what_differs_and_the_drawings(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODKERNEL_HOME", str(home))
    png, svg, part = (tmp_path / name for name in ("c.png", "all.svg", "part.svg"))
    pair = ("net.hidden-1/1", "net.hidden-1/2")
    differ, drawn, table, alone, graph, of, *unwritten = (
        run_here(*command)
        for command in (
            ("modules", "compare", *pair, "--json"),
            ("modules", "compare", *pair, "--picture", str(png)),
            ("modules", "compare", "net.hidden-1/1", "net.hidden-2", "net.output"),
            ("modules", "compare", "net.output"),
            ("modules", "graph", str(svg)),
            ("modules", "graph", str(part), "--of", "net.hidden-1/2"),
            ("modules", "graph", str(tmp_path)),
            ("modules", "compare", *pair, "--picture", str(tmp_path)),
        )
    )
    assert differ.json["seed"] == ["0", "3"]
    assert drawn.code == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    for shown in ("net.hidden-2/1", "75.00 %", "accuracy"):
        assert shown in table.out
    assert alone.code == 2
    assert (graph.code, of.code) == (0, 0)
    for done, option in zip(unwritten, ("FILE.svg", "--picture"), strict=True):
        assert done.code == 1
        why = f"Cannot write {tmp_path}: Is a directory. Give another {option}."
        assert done.err == f"modkernel: {why}\n"
    boxes = texts(svg)
    assert sum("net.hidden-1/" in box for box in boxes) == 2
    assert {"net.hidden-2/1", "net.output/1", "a<b"} < {*boxes}
    assert json.dumps(boxes).count("75.0 %") >= 1
    boxes = [
        text.text or "" for text in ElementTree.parse(part).iter() if text.tag.endswith("text")
    ]
    assert [box for box in boxes if "/" in box] == ["net.hidden-1/2"]


def texts(svg: Path) -> list[str]:
    return [one.text or "" for one in ElementTree.parse(svg).iter() if one.tag.endswith("text")]
