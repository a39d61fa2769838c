"""The short forms in a real browser: how large they are, and one filled in by choosing alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.flows.browser.page import (
    choose,
    fresh_page,
    log_in,
    open_model_version,
    open_run_form,
    submit_and_wait,
)
from tests.flows.helpers.prefect_client import deployment, prefect_client
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny

FORMS = (
    "train-network",
    "train-module",
    "compose-network",
    "train-baseline",
    "retrain-network",
    "search-modules",
    "transfer-study",
    "measure-modules",
    "stitch-modules",
    "promote-module",
)
FIELDS = 10
HEIGHT = 1500
"""Pixels from the top of the page to the folded part."""
COUNT = "all => all.filter(one => !one.parentElement.closest('fieldset')).length"


def size(page: Page) -> tuple[int, int]:
    """Fields before the folded part, and the pixels above it."""
    folded = page.get_by_text("Advanced", exact=True).first
    expect(folded).to_be_visible()
    place = folded.bounding_box()
    assert place is not None
    return page.locator("form fieldset").evaluate_all(COUNT) - 1, round(place["y"])


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_form_is_short(up: Up, browser: Browser, tmp_path: Path) -> None:
    with (
        fresh_page(browser, tmp_path) as (page, shoot),
        prefect_client(up.prefect, up.home) as client,
    ):
        log_in(page, up.prefect, up.password)
        for name in FORMS:
            id = deployment(client, name).id
            page.goto(f"{up.prefect}/v2/deployments/deployment/{id}/run")
            fields, height = size(page)
            print(name, fields, height)
            shoot(f"form-{name}")
            assert fields <= FIELDS, name
            assert height <= HEIGHT, name


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(900)
def test_choosing_is_enough(up: Up, browser: Browser, tmp_path: Path) -> None:
    spec = tmp_path / "by-choice.json"
    spec.write_text(tiny("by-choice").model_dump_json())
    up.modkernel("train", str(spec))
    with (
        fresh_page(browser, tmp_path) as (page, shoot),
        prefect_client(up.prefect, up.home) as client,
    ):

        def is_offered() -> bool:
            form = deployment(client, "compose-network").parameter_openapi_schema or {}
            return "by-choice.hidden-2" in form["properties"]["hidden"]["enum"]

        wait_until(is_offered, 60, "the module is a choice")
        log_in(page, up.prefect, up.password)
        # Several side by side, and what MLflow's page says of their network.
        open_run_form(page, up.prefect, "compose-network")
        page.get_by_role("textbox", name="Name (Optional)", exact=True).fill("side-by-side")
        choose(page, "Hidden", "by-choice.hidden-2")
        choose(page, "Beside", "by-choice.hidden-1")
        page.keyboard.press("Escape")
        choose(page, "Method", "ridge")
        shoot("join-filled")
        asked = submit_and_wait(page, up)
        assert (asked["hidden"], asked["beside"]) == ("by-choice.hidden-2", ["by-choice.hidden-1"])
        open_model_version(page, up.mlflow, "side-by-side", 1)
        expect(page.get_by_text("an output module on 2 of them side by side")).to_be_visible()
        expect(page.get_by_role("cell", name="2, 1", exact=True)).to_be_visible()
        shoot("join-card")

        open_run_form(page, up.prefect, "train-network")
        page.get_by_role("textbox", name="Name (Optional)", exact=True).fill("No Name")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text("'No Name' does not match")).to_be_visible()
        shoot("refused")
