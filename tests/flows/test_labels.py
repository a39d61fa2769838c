"""From suggested examples to a network trained on their labels, as a person goes it."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page
from sklearn.datasets import load_digits

from modkernel.flows.runtime.shared import open_registry
from modkernel.registry import Registry, Settings
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, NetworkSpec, Recipe
from tests.flows.browser.page import browser_page
from tests.flows.conftest import registry_of
from tests.flows.helpers.commands import Done, run_here
from tests.flows.helpers.specs import RELU
from tests.flows.helpers.trained import store_modules
from tests.modkernel.helpers.data_made import npz
from tests.registry.helpers.stored_homes import close_mlflow

Run = Callable[..., Done]
MODULE = "small.hidden-1"
SMALL = NetworkSpec(
    name="small",
    backbone=BackboneSpec(name="mlp", width=64, depth=1),
    hidden=(HiddenSpec(kernel=RELU, recipe=Recipe(epochs=8)),),
    output=None,
)


@pytest.fixture(scope="module")
def home(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one hidden module of digits."""
    home = shutil.copytree(template, tmp_path_factory.mktemp("labels") / "home")
    with Registry.open(Settings(home=home)) as registry:
        store_modules(registry, SMALL)
    close_mlflow(Settings(home=home).mlflow_uri)
    return home


@pytest.fixture
def modkernel(home: Path, prefect_server: str) -> Iterator[Run]:
    """Runs commands of the home in this process."""
    os.environ["PREFECT_API_URL"] = prefect_server
    with registry_of(home):
        yield run_here


def several(*commands: Sequence[str]) -> list[Done]:
    """What each of some commands gives."""
    return [run_here(*arguments) for arguments in commands]


def truth(name: str) -> str:
    """The class of a digit: its id is its place in scikit-learn's set."""
    return str(load_digits().target[int(name)])


def fill(path: Path, label: Callable[[str], str]) -> None:
    """Fill in the blank file as a person would by hand."""
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["id", "label"]
    assert all(given == "" for _, given in rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *([name, label(name)] for name, _ in rows)])


def suggest(path: Path, budget: int, *options: str) -> tuple[str, ...]:
    return (
        *("labels", "suggest", "--module", MODULE, "--budget", str(budget)),
        *("--output", str(path), "--json", *options),
    )


def compose(path: Path, name: str, *options: str) -> tuple[str, ...]:
    return ("compose", MODULE, "--name", name, "--labels", str(path), "--json", *options)


def changed(path: Path, name: str, text: str) -> Path:
    """A copy of a label file with a row more."""
    other = path.with_name(name)
    other.write_text(path.read_text() + text)
    return other


@pytest.mark.long
@pytest.mark.usefixtures("modkernel")
def test_suggested_examples_are_labelled_and_composed(tmp_path: Path) -> None:
    path, few = tmp_path / "labels.csv", tmp_path / "few.csv"
    first, again, fewer = several(
        suggest(path, 60),
        suggest(path, 60),
        suggest(few, 60),
    )
    found = first.json
    assert (found["file"], found["page"]) == (str(path), str(path.with_suffix(".html")))
    assert found["candidates"] > 1200
    assert found["ids"] == fewer.json["ids"]
    assert again.code == 1
    assert "is there already" in again.err
    page = path.with_suffix(".html").read_text()
    assert page.count("data:image/png;base64,") == 60
    fill(path, truth)
    ids = found["ids"]
    fill(few, lambda name: truth(name) if ids.index(name) < 50 else "")
    outside = changed(path, "outside.csv", "nobody,3\n")
    wrong = changed(path, "wrong.csv", f"{ids[0]},{(int(truth(ids[0])) + 1) % 10}\n")
    two = tmp_path / "two.csv"
    two.write_text("".join(f"{name},{truth(name)}\n" for name in ids if truth(name) in "17"))

    done = dict(
        zip(
            ("all", "again", "few", "two", "missing", "outside", "wrong", "budget"),
            several(
                compose(path, "by-hand"),
                compose(path, "by-hand"),
                compose(few, "by-few"),
                compose(two, "sevens", "--classes", "1,7"),
                compose(two, "missing"),
                compose(outside, "outside"),
                compose(wrong, "wrong"),
                compose(path, "budget", "--labels-per-class", "2"),
            ),
            strict=True,
        )
    )
    evaluation = done["all"].json["evaluation"]
    assert evaluation["labels"] == 60
    alone = f"Every example of data set 'digits' has a label: the 60 of {path} alone train"
    assert alone in done["all"].err
    assert evaluation["accuracy"] > 0.8
    assert evaluation["accuracy_all_labels"] > evaluation["accuracy"] - 0.05
    assert done["again"].json["trained_modules"] == 0
    assert done["again"].json["id"] == done["all"].json["id"]
    assert done["few"].json["evaluation"]["labels"] == 50
    assert "10 of 60 examples" in done["few"].err
    assert done["few"].json["modules"][-1]["id"] != done["all"].json["modules"][-1]["id"]
    assert done["two"].json["evaluation"]["accuracy"] > 0.9
    for name, sentence in {
        "missing": "labels no example of class",
        "outside": "names the example 'nobody'",
        "wrong": f"calls '{ids[0]}'",
        "budget": "used as a whole",
    }.items():
        assert done[name].code == 1
        assert sentence in done[name].err
        assert len(done[name].err.strip().splitlines()[-1:]) == 1


@pytest.mark.usefixtures("modkernel")
def test_what_cannot_be_suggested_and_what_to_type_next(tmp_path: Path) -> None:
    path = tmp_path / "my labels.csv"
    ask = ("labels", "suggest", "--module", MODULE, "--budget")
    page, none, many, done = several(
        (*ask, "5", "--output", str(tmp_path / "labels.html")),
        (*ask, "0", "--output", str(path)),
        (*ask, "5000", "--output", str(path)),
        (*ask, "5", "--output", str(path), "--channels", "1", "--classes", "0, 1"),
    )
    for wrong, sentence in (
        (page, "ends in .csv"),
        (none, "A budget of 0 labels"),
        (many, "A budget of 5000 labels"),
    ):
        assert (wrong.code, wrong.out) == (1, "")
        assert sentence in wrong.err
    assert done.code == 0, done.err
    command = shlex.split(done.out.splitlines()[-1].removeprefix("2. "))
    assert command == [
        *("modkernel", "compose", MODULE, "--labels", str(path)),
        *("--classes", "0, 1", "--channels", "1"),
    ]
    assert sorted(tmp_path.iterdir()) == [path, path.with_suffix(".html")]


def test_a_folder_without_labels_is_labelled_and_its_images_predicted(
    modkernel: Run, tmp_path: Path
) -> None:
    """Nothing is known but what the file says: there is no accuracy, and all else works."""
    folder = tmp_path / "images"
    folder.mkdir()
    digits = load_digits()
    chosen = np.flatnonzero(np.isin(digits.target, (0, 1)))[:80]
    for row in chosen:
        pixels = (digits.images[row] / 16 * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")

    path = tmp_path / "labels.csv"
    found = modkernel(*suggest(path, 8, "--data", str(folder)))
    assert len(found.json["ids"]) == 8
    fill(path, lambda name: "ring" if truth(Path(name).stem) == "0" else "stick")
    some = [int(row) for row in chosen[:20]]
    images = [str(folder / f"{row}.png") for row in some]
    composed, shown, module, predicted = several(
        compose(path, "shapes", "--data", str(folder)),
        ("networks", "show", "shapes"),
        ("modules", "show", "shapes.output", "--json"),
        ("predict", "shapes", *images, "--json"),
    )
    assert composed.json["evaluation"] is None
    assert composed.json["modules"][-1]["reused"] is False
    told = composed.json["modules"][-1]["labels_told"]
    assert told.startswith("8 labels for the output module; hidden modules saw the pairs of labels")
    assert re.search(r"gives labels of 2: '(ring|stick)' \(\d\), ", composed.err)
    assert shown.code == 0, shown.err
    assert f"{told}. Its accuracy is not known: no test example" in " ".join(shown.out.split())
    spec = module.json["spec"]
    assert spec["classes"] == ["ring", "stick"]
    assert len(spec["dataset"]["labels_fingerprint"]) == 64
    right = [
        one["label"] == ("ring" if digits.target[row] == 0 else "stick")
        for row, one in zip(some, predicted.json, strict=True)
    ]
    assert sum(right) > 16


@pytest.mark.usefixtures("modkernel")
def test_the_rest_of_a_set_is_labelled_of_which_some_have_a_label(tmp_path: Path) -> None:
    digits = load_digits()
    labels = np.where(np.arange(len(digits.target)) % 20, -1, digits.target)
    arrays = npz(tmp_path / "half.npz", x=(digits.images * 15).astype(np.uint8), y=labels)
    half = DatasetSpec(name="arrays", path=str(arrays), unlabelled=-1)
    store_modules(open_registry(), SMALL.changed(name="half", dataset=half))
    has = {str(row) for row in range(0, len(labels), 20)}

    def ask(path: Path, *options: str) -> Any:
        asked = run_here(
            *("labels", "suggest", "--module", "half.hidden-1", "--budget", "12"),
            *("--output", str(path), "--json", *options),
        )
        assert asked.code == 0, asked.err
        return asked.json

    path, more = tmp_path / "labels.csv", tmp_path / "more.csv"
    first = ask(path)
    own = first["labelled"]
    assert 50 < own < len(has)
    assert not has & set(first["ids"])
    assert len(labels) - len(has) - 50 < first["candidates"] <= len(labels) - len(has)
    assert first["labels_told"].startswith(f"{own + 12} labels for the output module; ")
    fill(path, truth)
    second = ask(more, "--labels", str(path))
    assert (second["labelled"], second["candidates"]) == (own + 12, first["candidates"] - 12)
    assert not set(second["ids"]) & {*first["ids"], *has}
    assert more.read_text().startswith(path.read_text())
    assert [line for line in more.read_text().splitlines() if line.endswith(",")] == [
        f"{name}," for name in second["ids"]
    ]
    by_hand, again = (
        run_here("compose", "half.hidden-1", "--name", name, "--json", *options)
        for name, options in (
            ("by-hand", ("--labels", str(path))),
            ("again", ("--labels", str(more))),
        )
    )
    assert by_hand.code == 0, by_hand.err
    assert f"12 labels of {path} and {own} that data set 'arrays' has itself train" in by_hand.err
    assert by_hand.json["evaluation"]["labels"] == own + 12
    told = f"{own + 12} labels for the output module; hidden modules saw the pairs of {own} labels"
    assert by_hand.json["modules"][-1]["labels_told"] == first["labels_told"] == told
    assert again.json["trained_modules"] == 0, "blank cells are no labels"
    page = open_registry().backends.client.get_model_version("by-hand.output", "1")
    assert page.tags["labels"] == "all and a file of labels"
    assert "on all labels and a file of further ones" in page.description
    assert "without a label may have one in the file" in page.description


@pytest.mark.browser
def test_labels_are_given_in_a_browser(modkernel: Run, tmp_path: Path) -> None:
    path, filled = tmp_path / "labels.csv", tmp_path / "filled.csv"
    found = modkernel(*suggest(path, 12, "--classes", "0,1"))
    ids = found.json["ids"]
    with browser_page(tmp_path) as (page, _):
        page.goto(path.with_suffix(".html").as_uri())
        expect_count(page, 0, 12)
        choose(page, truth(ids[0]))
        page.keyboard.press(str(int(truth(ids[1])) + 1))  # Key 1 is the first class.
        page.keyboard.press("Enter")  # The third is skipped,
        for name in ids[3:]:
            page.keyboard.press(str(int(truth(name)) + 1))
        page.reload()  # Labels outlive it.
        expect_count(page, 11, 12)
        page.locator(".item").nth(3).click()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("2" if truth(ids[2]) == "0" else "1")  # given a wrong one,
        page.locator(".item").nth(2).click()
        page.keyboard.press("Backspace")
        expect_count(page, 11, 12)
        choose(page, truth(ids[2]))  # and corrected.
        expect_count(page, 12, 12)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download labels.csv").click()
        assert download.value.suggested_filename == "labels.csv"
        download.value.save_as(filled)
    with filled.open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "label"], *([name, truth(name)] for name in ids)]
    composed = modkernel(*compose(filled, "clicked", "--classes", "0,1"))
    assert composed.json["evaluation"]["labels"] == 12
    assert composed.json["evaluation"]["accuracy"] > 0.9


def expect_count(page: Page, labelled: int, of: int) -> None:
    page.get_by_text(f"{labelled} of {of} labelled").wait_for()


def choose(page: Page, name: str) -> None:
    page.locator("#classes").get_by_role("button", name=f"{int(name) + 1} {name}").click()
