"""The forms of the transfer study and of the module search, filled in a real browser."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from modkernel.flows.search.spec import SearchSpec, demo_search
from modkernel.flows.servers.prefect_password import prefect_password
from modkernel.flows.study.spec import StudySpec, demo_study
from modkernel.registry import Settings
from tests.flows.browser.page import (
    Shoot,
    browser_page,
    expect_picture,
    find_browser,
    log_in,
    open_artifact,
    open_run_form,
    submit_and_wait,
)
from tests.flows.browser.test_train_and_promote import servers
from tests.flows.test_cli_up import get, surroundings

BROWSER = find_browser()


def search_in_prefect(page: Page, prefect: str, password: str, shoot: Shoot) -> None:
    open_run_form(page, prefect, "search-modules")
    page.get_by_role("textbox", name="Name", exact=True).fill("by-form")
    for epochs in page.get_by_role("spinbutton", name="Epochs").all()[:-1]:
        epochs.fill("2")
    shoot("search-form")
    state = submit_and_wait(page)
    shoot("search-run")
    assert state == "Completed"
    asked = SearchSpec.model_validate(parameters(prefect, password, "by-form"))
    assert len(asked.stages) == len(demo_search().stages)
    every = [candidate for stage in asked.stages for candidate in stage.candidates]
    assert {candidate.recipe.epochs for candidate in every} == {2}
    assert {candidate.width for candidate in every} == {None, 256}
    open_artifact(page, "search-by-form")
    expect(page.get_by_role("heading", name="Module search by-form")).to_be_visible()
    expect(page.get_by_role("cell", name="in the network").first).to_be_visible()
    expect_picture(page.get_by_alt_text("figure"))
    shoot("search-artifact")


def study_in_prefect(page: Page, prefect: str, password: str, shoot: Shoot) -> None:
    open_run_form(page, prefect, "transfer-study")
    page.get_by_role("textbox", name="Name", exact=True).fill("by-form")
    page.get_by_role("spinbutton", name="Epochs").first.fill("1")
    shoot("study-form")
    state = submit_and_wait(page)
    shoot("study-run")
    assert state == "Completed"
    asked = StudySpec.model_validate(parameters(prefect, password, "by-form"))
    assert asked.tasks == demo_study().tasks
    assert asked.hidden.recipe.epochs == 1
    open_artifact(page, "study-by-form")
    expect(page.get_by_role("heading", name="by-form").first).to_be_visible()
    expect_picture(page.locator("main img[src^='data:image/png']").first)
    shoot("study-artifact")


def parameters(prefect: str, password: str, run_name: str) -> object:
    """The spec that the newest run of a name was started with."""
    asked = {"sort": "START_TIME_DESC", "flow_runs": {"name": {"any_": [run_name]}}}
    found = json.loads(get(f"{prefect}/api/flow_runs/filter", asked, password))
    return found[0]["parameters"]["spec"]


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt install chromium)")
def test_a_search_and_a_study_are_run_from_their_forms(tmp_path: Path) -> None:
    assert BROWSER is not None
    screenshots = Path(os.environ.get("MODKERNEL_SCREENSHOTS", tmp_path / "screenshots"))
    screenshots.mkdir(parents=True, exist_ok=True)
    home = tmp_path / "home"
    environment, _, _ = surroundings(home)
    with (
        servers(environment, home) as (_, prefect),
        browser_page(BROWSER, screenshots) as (page, shoot),
    ):
        password = prefect_password(Settings(home=home))
        log_in(page, prefect, password)
        search_in_prefect(page, prefect, password, shoot)
        study_in_prefect(page, prefect, password, shoot)
