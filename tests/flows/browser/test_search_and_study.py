"""The forms of the transfer study and of the module search, filled in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from modkernel.flows.search.spec import SearchSpec, demo_search
from modkernel.flows.study.spec import StudySpec, demo_study
from tests.flows.browser.page import (
    Shoot,
    browser_page,
    expect_picture,
    log_in,
    open_artifact,
    open_run_form,
    submit_and_wait,
)
from tests.flows.helpers.servers import Up


def search_in_prefect(page: Page, up: Up, shoot: Shoot) -> None:
    open_run_form(page, up.prefect, "search-modules")
    page.get_by_role("textbox", name="Name", exact=True).fill("by-form")
    for epochs in page.get_by_role("spinbutton", name="Epochs").all()[:-1]:
        epochs.fill("2")
    shoot("search-form")
    asked = SearchSpec.model_validate(submit_and_wait(page, up)["spec"])
    shoot("search-run")
    assert len(asked.stages) == len(demo_search().stages)
    every = [candidate for stage in asked.stages for candidate in stage.candidates]
    assert {candidate.recipe.epochs for candidate in every} == {2}
    assert {candidate.width for candidate in every} == {None, 256}
    open_artifact(page, "search-by-form")
    expect(page.get_by_role("heading", name="Module search by-form")).to_be_visible()
    expect(page.get_by_role("cell", name="in the network").first).to_be_visible()
    expect_picture(page.get_by_alt_text("figure"))
    shoot("search-artifact")


def study_in_prefect(page: Page, up: Up, shoot: Shoot) -> None:
    open_run_form(page, up.prefect, "transfer-study")
    page.get_by_role("textbox", name="Name", exact=True).fill("by-form")
    page.get_by_role("spinbutton", name="Epochs").first.fill("1")
    shoot("study-form")
    asked = StudySpec.model_validate(submit_and_wait(page, up)["spec"])
    shoot("study-run")
    assert asked.tasks == demo_study().tasks
    assert asked.hidden.recipe.epochs == 1
    open_artifact(page, "study-by-form")
    expect(page.get_by_role("heading", name="by-form").first).to_be_visible()
    expect_picture(page.locator("main img[src^='data:image/png']").first)
    shoot("study-artifact")


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_search_and_a_study_are_run_from_their_forms(up: Up, tmp_path: Path) -> None:
    with browser_page(tmp_path) as (page, shoot):
        log_in(page, up.prefect, up.password)
        search_in_prefect(page, up, shoot)
        study_in_prefect(page, up, shoot)
