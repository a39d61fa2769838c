"""A run that goes on, as its page in Prefect shows it, and its end by two clicks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from prefect.client.schemas.objects import StateType

from tests.flows.browser.page import fresh_page, log_in
from tests.flows.helpers.prefect_client import prefect_client
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import endless
from tests.flows.test_signals import NAME, STOP_SECONDS, check_stopped, served


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_shows_its_progress_and_is_cancelled_by_hand(
    up: Up, browser: Browser, tmp_path: Path
) -> None:
    spec = endless("by-two-clicks")
    with (
        fresh_page(browser, tmp_path) as (page, shoot),
        prefect_client(up.prefect, up.home) as client,
        served(up, client, spec) as run,
    ):
        log_in(page, up.prefect, up.password)
        page.goto(f"{up.prefect}/v2/runs/flow-run/{run}")
        expect(page.get_by_text(NAME).first).to_be_visible()
        expect(page.get_by_text("of 1000000").first).to_be_visible()
        shoot("run-going-on")
        page.locator("main button[aria-haspopup='menu']").first.click()
        page.get_by_role("menuitem", name="Cancel").click()
        shoot("cancel-dialog")
        began = time.monotonic()
        page.get_by_role("alertdialog").get_by_role("button").last.click()

        def cancelled() -> bool:
            return client.read_flow_run(run).state_type == StateType.CANCELLED

        wait_until(cancelled, 60, "the run is cancelled")
        assert time.monotonic() - began < STOP_SECONDS
        expect(page.get_by_text("Cancelled").first).to_be_visible()
        shoot("run-cancelled")
    check_stopped(up.home, spec.name)
