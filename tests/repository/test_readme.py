"""The README is true: its files parse, its backbone can be cut, its links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from modkernel.backbones import build_hidden
from modkernel.backbones.cut import cut
from modkernel.flows.cli.demo import activation
from modkernel.flows.specs.read import parse_spec
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    (language, text)
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]


def blocks(language: str, holding: str) -> list[str]:
    found = [text for kind, text in BLOCKS if kind == language and holding in text]
    assert found, f"the README has no {language} block with {holding!r}"
    return found


def test_whole_specs_parse(tmp_path: Path) -> None:
    texts = blocks("yaml", "name: ")
    whole = [text for text in texts if re.search(r"^name: ", text, re.MULTILINE)]
    assert len(whole) >= 2
    for text in whole:
        parse_spec(text, name="README.md", folder=tmp_path)


def test_data_set_lines_are_data_set_specs() -> None:
    (text,) = (text for text in blocks("yaml", "dataset:") if text.startswith("dataset:"))
    for line in text.splitlines():
        DatasetSpec.model_validate(yaml.safe_load(line)["dataset"])


def test_the_cut_is_one() -> None:
    (text,) = blocks("yaml", "until")
    hidden = [HiddenSpec.model_validate(each) for each in yaml.safe_load(text)["hidden"]]
    first, second = cut(BackboneSpec(name="resnet18"), hidden)
    assert (first[-1], second[-1]) == ("layer2.1", "layer4.1")


def test_the_backbone_of_one_s_own_can_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks("python", "def tiny")
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = blocks("yaml", "mypackage.nets")
    backbone = BackboneSpec.model_validate(yaml.safe_load(line)["backbone"])
    first, second = cut(backbone, [HiddenSpec(), HiddenSpec()])
    takes: Any = (3, 16, 16)
    import torch

    out = build_hidden(backbone, first, takes, seed=0)(torch.zeros(2, *takes))
    assert out.shape == (2, 48, 16, 16)
    out = build_hidden(backbone, second, (48, 16, 16), seed=0)(out)
    assert out.shape == (2, 96, 8, 8)


def commands(starting: str) -> list[str]:
    """Indented lines with a command, in their order."""
    return re.findall(rf"^    +((?:{starting})\b.*)", README, re.MULTILINE)


def test_the_commands_are_found_where_make_put_them() -> None:
    told = commands(r"make demo|\. \.venv/bin/activate|modkernel|mlflow|python")
    assert told[:2] == ["make demo", ". .venv/bin/activate"]


def test_one_command_is_not_in_the_way_of_another() -> None:
    """Two files of suggested labels, and two servers beside those of `modkernel up`."""
    suggested = commands("modkernel labels suggest")
    files = [re.findall(r"--output (\S+)", one) or ["labels.csv"] for one in suggested]
    assert len(files) == len({tuple(one) for one in files}) > 1
    for one in commands("mlflow models serve"):
        assert re.search(r"-p (?!5000)\d+", one), one


def test_the_demo_says_how_its_next_commands_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("activate", "python", "modkernel"):
        (programs / name).touch(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert activation() == f"'. {programs}/activate', then "
    monkeypatch.setenv("PATH", str(programs))
    assert activation() == ""


def test_files_that_the_documents_name_exist() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} names {target}"
