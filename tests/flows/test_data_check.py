"""`modkernel data check`: what it says of data, its page, its block, and when it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from modkernel.errors import DataError, ModkernelError, SettingsError
from modkernel.flows.cli import predict
from modkernel.flows.cli.app import app
from modkernel.flows.plans import datasets
from modkernel.flows.runtime.events import Note, watch
from modkernel.flows.specs.read import parse_spec
from modkernel.flows.study.plan import plan_study
from modkernel.flows.study.spec import StudySpec
from modkernel.registry import Registry
from modkernel.spec import DatasetSpec

MEAN = "<img src=x onerror=alert(1)> $x$"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
    """Random pictures, so many of each class."""
    chance = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = chance.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def check(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["data", "check", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_folder_is_counted_shown_and_ready_to_be_pasted(home: Path) -> None:
    root = folder(home / "pictures", {"cat": 30, MEAN: 40})
    (root / "cat" / "notes.txt").write_text("what is skipped is told")
    (root / "cat" / "copy.png").write_bytes((root / MEAN / "0.png").read_bytes())
    found = json.loads(check(root, "--image-size", 4, "--json"))
    assert sum(each["train"] + each["validation"] + each["test"] for each in found["counts"]) == 71
    assert {each["name"] for each in found["counts"]} == {"cat", MEAN}
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert {"skipped", "contradictions", "resized"} <= kinds.keys()
    assert kinds["resized"]["count"] == 71
    page = Path(found["page"]).read_text()
    assert page.count("data:image/") == 12
    assert MEAN not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    spec = parse_spec("name: pasted\n" + found["block"], name="pasted", folder=home)
    assert spec.dataset == DatasetSpec(name="image_folder", path=str(root), image_size=4)
    shown = check(root, "--image-size", 4)
    for finding in found["findings"]:
        assert finding["text"] in shown.replace("\n", " ")


def test_a_look_follows_the_files(home: Path) -> None:
    root = folder(home / "pictures", {"a": 20, "b": 20})
    first = json.loads(check(root, "--json"))
    assert json.loads(check(root, "--json")) == first
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(root / "a" / "more.png")
    second = json.loads(check(root, "--json"))
    assert second["fingerprint"] != first["fingerprint"]
    assert sum(each["train"] + each["validation"] + each["test"] for each in second["counts"]) == 41


HEAVY = """
import sys
from modkernel.flows.cli import main
try:
    main()
finally:
    heavy = ("torch", "torchvision", "numpy", "mlflow", "prefect")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""


def test_two_first_looks_at_once_agree_and_a_second_imports_nothing_heavy(home: Path) -> None:
    root = folder(home / "pictures", {"a": 20, "b": 20})

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HEAVY, "data", "check", str(root), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )

    both = [start(), start()]
    (first, _), (second, _) = (each.communicate() for each in both)
    assert [each.returncode for each in both] == [0, 0]
    third = start()
    again, heavy = third.communicate()
    assert json.loads(first) == json.loads(second) == json.loads(again)
    assert heavy == "[]\n"


def test_an_archive_a_spec_and_chosen_classes(home: Path) -> None:
    y = np.arange(90) % 3
    np.savez(home / "v.npz", x=np.random.default_rng(1).normal(size=(90, 5)), y=y)
    (home / "spec.yaml").write_text("name: s\ndataset: {name: arrays, path: v.npz}\n")
    by_path = json.loads(check(home / "v.npz", "--classes", "0,2", "--json"))
    assert [each["name"] for each in by_path["counts"]] == ["0", "2"]
    assert by_path["example"] == "vectors of 5 numbers"
    assert yaml.safe_load(by_path["block"])["dataset"]["classes"] == ["0", "2"]
    by_spec = json.loads(check(home / "spec.yaml", "--json"))
    assert len(by_spec["counts"]) == 3
    assert "<code" in Path(by_spec["page"]).read_text()


def test_data_by_a_name_stay_so_in_the_block(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(home / "pictures", {"a": 12, "b": 12})
    by_path = json.loads(check(root, "--json"))
    monkeypatch.setenv("MODKERNEL_DATA_PATHS", f"birds={root}")
    found = json.loads(check("birds", "--json"))
    assert yaml.safe_load(found["block"])["dataset"] == {"name": "image_folder", "path": "birds"}
    assert found["fingerprint"] == by_path["fingerprint"]
    assert Path(found["page"]).read_text().count("data:image/") > 1


def test_a_table_with_its_label_column(home: Path) -> None:
    sizes = [7 * row % 60 for row in range(60)]
    lines = [f"{size},{'small' if size < 30 else 'large'}" for size in sizes]
    (home / "sizes.csv").write_text("\n".join(["size,kind", *lines]))
    found = json.loads(check(home / "sizes.csv", "--label", "kind", "--json"))
    assert {each["name"] for each in found["counts"]} == {"large", "small"}
    assert yaml.safe_load(found["block"])["dataset"]["label"] == "kind"
    with pytest.raises(DataError, match="label"):
        check(home / "sizes.csv")


def test_what_training_would_refuse_is_one_sentence(home: Path) -> None:
    root = folder(home / "pictures", {"a": 12})
    folder(root / "..", {"pictures/b": 12}, (6, 9))
    for path, what in (
        (root, "Images differ in size"),
        (home / "none", "is no file or folder"),
    ):
        with pytest.raises(ModkernelError, match=what):
            check(path)
    (home / "data.pickle").touch()
    with pytest.raises(DataError, match="is no data set that can be read"):
        check(home / "data.pickle")


def test_each_finding_is_noted_once_also_in_a_study(home: Path, registry: Registry) -> None:
    root = folder(home / "pictures", {"a": 30, "b": 30, "c": 30})
    (root / "a" / "\x1b[31mnotes.txt").touch()
    spec = DatasetSpec(name="image_folder", path=str(root))
    told: list[str] = []
    with watch(lambda event: told.append(event.text) if isinstance(event, Note) else None):
        info = datasets.describe(registry, spec)
        assert told == [finding.text for finding in info.findings]
        assert any("notes.txt" in text for text in told)
        assert all(text.isprintable() for text in told)
        told.clear()
        plan_study(registry, StudySpec(name="s", dataset=spec))
    assert told == [finding.text for finding in info.findings]


def test_names_that_are_no_unicode_are_shown_as_far_as_they_are(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(home / os.fsdecode(b"caf\xe9"), {os.fsdecode(b"\xff-class"): 20, "b": 20})
    (root / "b" / os.fsdecode(b"\xfe.txt")).write_text("no image")
    (root / "b" / "0.png").rename(root / "b" / os.fsdecode(b"\xfd.png"))
    assert "?-class" in check(root)
    assert "caf?" in (home / "data-check.html").read_text()
    assert len(json.loads(check(root, "--json"))["counts"]) == 2

    def answers(network: object, moments: object, files: object, write: Any) -> Any:
        one = {"label": "a", "probability": 0.5, "distance": None, "probabilities": {"a": 0.5}}
        write([os.fsdecode(b"pic\xff.png")], [one])
        return 1, []

    monkeypatch.setattr(predict, "stored", lambda: nullcontext(MagicMock()))
    monkeypatch.setattr(predict, "load", lambda registry, name: MagicMock(title="net"))
    monkeypatch.setattr(predict, "answers_to", answers)
    done = CliRunner().invoke(app, ["predict", "net", "pictures"], catch_exceptions=False)
    assert "pic?.png" in done.output


def test_a_page_that_cannot_be_written_costs_no_finding(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(home / "pictures", {"cat": 30, "dog": 40})
    (home / "taken" / "data-check.html").mkdir(parents=True)  # Root may write everywhere else.
    monkeypatch.chdir(home / "taken")
    for options in ((), ("--json",)):
        done = CliRunner().invoke(app, ["data", "check", str(root), *options])
        assert isinstance(done.exception, SettingsError)
        told = "Cannot write data-check.html: Is a directory. Give another --page."
        assert str(done.exception) == told
        shown = done.output
        assert "dog" in shown
        assert "html" not in shown
    assert json.loads(shown)["page"] is None
