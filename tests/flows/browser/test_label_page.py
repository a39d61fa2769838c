"""The page for labelling: hostile names stay text, and free class names work by keyboard."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page

from modkernel.data import DataPlaces, load_dataset, read_labels
from modkernel.flows.labels.images import label_images
from modkernel.flows.labels.page import label_page
from modkernel.spec import DatasetSpec
from tests.flows.browser.page import fresh_page
from tests.modkernel.helpers.data_made import image_folder, npz

HOSTILE = (
    '</script><script>document.title="owned"</script>',
    '"><img src=x onerror="document.title=1">',
    "a, 'b' & <c>",
    "@ITEMS@ @STATE@",
)


def fill_and_download(page: Page, folder: Path) -> list[list[str]]:
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(folder / "filled.csv")
    with (folder / "filled.csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.browser
def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "labels.html"
    path.write_text(label_page("labels.csv", HOSTILE, ["1, 2"] * len(HOSTILE), HOSTILE, {}))
    asked: list[str] = []
    with fresh_page(browser, tmp_path) as (page, _):
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        for digit in range(len(HOSTILE)):
            page.keyboard.press(str(digit + 1))
        assert page.title() == f"labels.csv – label {len(HOSTILE)} examples"
        assert page.locator("img").count() == 0
        assert page.locator("#items.rows").count() == 1
        rows = fill_and_download(page, tmp_path)
    assert rows == [["id", "label"], *([name, name] for name in HOSTILE)]
    assert [url for url in asked if not url.startswith(("file:", "blob:"))] == []
    found = read_labels(tmp_path / "filled.csv", HOSTILE, HOSTILE)
    assert found.labels.tolist() == [HOSTILE.index(name) for name in sorted(HOSTILE)]


@pytest.mark.browser
def test_classes_are_named_on_the_page_where_there_are_none(
    browser: Browser, tmp_path: Path
) -> None:
    ids = [f"{number}.png" for number in range(5)]
    path = tmp_path / "labels.html"
    path.write_text(
        label_page("labels.csv", ids, ["text"] * 5, (), {"earlier.png": "1 cat", "e, 2": "emu"})
    )
    with fresh_page(browser, tmp_path) as (page, _):
        page.goto(path.as_uri())
        new = page.get_by_placeholder("Name of a new class")
        assert page.locator(".class").count() == 2, "those that were named before"
        for name in ("1 cat", "dog", " dog "):  # A digit in a name picks no class.
            new.click()
            page.keyboard.type(name)
            page.keyboard.press("Enter")
        assert page.locator(".class").count() == 3
        page.keyboard.press("1")
        rows = fill_and_download(page, tmp_path)
    assert rows[1:3] == [["earlier.png", "1 cat"], ["e, 2", "emu"]]
    assert [label for _, label in rows[3:]] == ["1 cat", "dog", "dog", "1 cat", ""]


@pytest.mark.browser
def test_many_classes_have_numbers_of_two_digits(browser: Browser, tmp_path: Path) -> None:
    ids, classes = ["a", "b", "c", "d"], [f"class {number}" for number in range(1, 26)]
    path = tmp_path / "labels.html"
    path.write_text(label_page("labels.csv", ids, ["text"] * 4, classes, {}))
    with fresh_page(browser, tmp_path) as (page, _):
        page.goto(path.as_uri())
        for key in ("1", "7", "2", "Enter", "9", "2", "5"):
            page.keyboard.press(key)
        rows = fill_and_download(page, tmp_path)
    assert [label for _, label in rows[1:]] == ["class 17", "class 2", "class 9", "class 25"]


def test_images_of_a_folder_are_shown_larger_than_the_module_takes_them(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    folder = image_folder(tmp_path / "set", {"a": 9, "b": 9}, size=(900, 450), suffix="jpg")
    spec = DatasetSpec(name="image_folder", path=str(folder), image_size=8)
    data = load_dataset(spec, DataPlaces(tmp_path, tmp_path / "cache", download=False))
    (shown,) = label_images(spec, data.train, torch.tensor([2]), data.preprocessing.reading)
    head, _, body = shown.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert (head, image.size) == ("data:image/jpeg;base64", (320, 160))


def test_a_vector_is_shown_as_numbers(tmp_path: Path) -> None:
    x = torch.arange(200.0).view(20, 10).numpy()
    path = npz(tmp_path / "set.npz", x=x, y=(torch.arange(20) % 2).numpy())
    spec = DatasetSpec(name="arrays", path=str(path))
    data = load_dataset(spec, DataPlaces(tmp_path, tmp_path / "cache", download=False))
    (shown,) = label_images(spec, data.train, torch.tensor([0]), data.preprocessing.reading)
    first = data.train.examples.batch(torch.tensor([0]))[0, :2].tolist()
    assert shown.startswith(f"{first[0]:.4g}, {first[1]:.4g}, ")
    assert shown.endswith(", …")
