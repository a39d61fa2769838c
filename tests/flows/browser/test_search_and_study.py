"""The forms of the transfer study and of the module search, filled in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from modkernel.flows.deployments.forms.search import SearchForm
from modkernel.flows.deployments.forms.study import StudyForm
from tests.flows.browser.page import (
    Shoot,
    add_texts,
    choose,
    expect_picture,
    fresh_page,
    log_in,
    open_artifact,
    open_run_form,
    submit_and_wait,
)
from tests.flows.helpers.servers import Up

TASKS = ("1, 7", "3, 8", "1, 8", "round=3+8, straight=1+7")


def search_in_prefect(page: Page, up: Up, shoot: Shoot) -> None:
    open_run_form(page, up.prefect, "search-modules")
    page.get_by_role("textbox", name="Name (Optional)", exact=True).fill("by-form")
    page.get_by_role("spinbutton", name="Epochs").fill("2")
    choose(page, "Score", "logme")
    shoot("search-form")
    asked = SearchForm.model_validate(submit_and_wait(page, up))
    shoot("search-run")
    assert asked == SearchForm(name="by-form", epochs=2, score="logme")
    open_artifact(page, "search-by-form")
    expect(page.get_by_role("heading", name="Module search by-form")).to_be_visible()
    expect(page.get_by_role("cell", name="in the network").first).to_be_visible()
    expect_picture(page.get_by_alt_text("figure"))
    shoot("search-artifact")


def study_in_prefect(page: Page, up: Up, shoot: Shoot) -> None:
    open_run_form(page, up.prefect, "transfer-study")
    page.get_by_role("textbox", name="Name (Optional)", exact=True).fill("by-form")
    page.get_by_role("spinbutton", name="Epochs").fill("1")
    add_texts(page, TASKS)
    shoot("study-form")
    asked = StudyForm.model_validate(submit_and_wait(page, up))
    shoot("study-run")
    assert asked == StudyForm(name="by-form", epochs=1, tasks=TASKS)
    open_artifact(page, "study-by-form")
    expect(page.get_by_role("heading", name="by-form").first).to_be_visible()
    expect_picture(page.locator("main img[src^='data:image/png']").first)
    shoot("study-artifact")


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_search_and_a_study_are_run_from_their_forms(
    up: Up, browser: Browser, tmp_path: Path
) -> None:
    with fresh_page(browser, tmp_path) as (page, shoot):
        log_in(page, up.prefect, up.password)
        search_in_prefect(page, up, shoot)
        study_in_prefect(page, up, shoot)
