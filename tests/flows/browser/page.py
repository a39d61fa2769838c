"""A real browser, and what a person does in it with Prefect's and MLflow's pages."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect, sync_playwright

from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up, get

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 90_000
"""Milliseconds for one page or dialog to appear: test machines are shared."""
MENU_PATIENCE = 10_000
"""Milliseconds for a menu to open by a click."""
RUN_SECONDS = 300
"""For a flow run, its process's start included."""
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
"""Types of states that a run ends in."""

Shoot = Callable[[str], None]


def find_browser() -> str | None:
    """Path of an installed Chromium, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser, which takes seconds to start."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browser_page(folder: Path) -> Iterator[tuple[Page, Shoot]]:
    """`fresh_page` of a browser of its own."""
    with running_browser() as browser, fresh_page(browser, folder) as opened:
        yield opened


@contextmanager
def fresh_page(browser: Browser, folder: Path) -> Iterator[tuple[Page, Shoot]]:
    """A page that knows of no other, and a function that saves what it shows under a name.

    Pictures of whole pages take seconds: they are made where MODKERNEL_SCREENSHOTS names a folder
    for them, and of a page that a test fails on, in the test's own folder.
    """
    wanted = os.environ.get("MODKERNEL_SCREENSHOTS")
    screenshots = Path(wanted or folder)
    screenshots.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, reduced_motion="reduce")
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    taken = 0

    def shoot(name: str) -> None:
        nonlocal taken
        taken += 1
        if wanted or name == "failed":
            page.screenshot(path=screenshots / f"{taken:02}-{name}.png", full_page=True)

    try:
        yield page, shoot
    except BaseException:
        shoot("failed")
        raise
    finally:
        page.close()  # With its context.


def log_in(page: Page, prefect: str, password: str) -> None:
    """The one step that Prefect's page asks of a person, once a browser: paste the password."""
    page.goto(prefect)
    page.locator("input[type='password']").fill(password)
    page.get_by_role("button", name="Login").click()
    page.get_by_role("link", name="Deployments").wait_for()


def open_deployment(page: Page, prefect: str, deployment: str) -> None:
    """From Prefect's list of deployments, with all on one page, to the page of one."""
    page.goto(f"{prefect}/v2/deployments?limit=100")
    # From its beginning: 'retrain-network' holds the name 'train-network', too.
    page.get_by_role("link", name=re.compile(f"^{re.escape(deployment)}")).first.click()


def open_run_form(page: Page, prefect: str, deployment: str) -> None:
    """From Prefect's list of deployments to the form of one's custom run."""
    open_deployment(page, prefect, deployment)
    run = page.get_by_role("button", name="Run", exact=True)
    custom = page.get_by_role("menuitem", name="Custom run")
    run.click()
    try:
        custom.wait_for(timeout=MENU_PATIENCE)
    except TimeoutError:  # The page was drawn again meanwhile, and its menu is closed.
        run.click()
    custom.click()
    page.get_by_role("button", name="Submit").wait_for()


def choose(page: Page, field: str, choice: str) -> None:
    """Take a choice of a form's list."""
    page.get_by_role("button", name=f"Select {field}", exact=True).click()
    page.get_by_role("option", name=choice, exact=True).click()


def add_texts(page: Page, texts: Sequence[str]) -> None:
    """Fill the list of texts that a form ends with."""
    boxes = page.get_by_role("textbox")
    for text in texts:
        new = boxes.count()
        page.get_by_role("button", name="Add item").click()
        boxes.nth(new).fill(text)


def open_schedule_form(page: Page, prefect: str, deployment: str) -> Locator:
    """From Prefect's list of deployments to the dialog of a new schedule of one."""
    open_deployment(page, prefect, deployment)
    page.get_by_role("button", name="Schedule", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Save").wait_for()
    return dialog


def save_schedule(page: Page, dialog: Locator, seconds: int) -> None:
    """Make the schedule of the dialog an interval of seconds, and save it."""
    dialog.get_by_role("textbox", name="Value").fill(str(seconds))
    dialog.get_by_role("combobox", name="Interval").click()
    page.get_by_role("option", name="Seconds").click()
    dialog.get_by_role("button", name="Save").click()
    dialog.wait_for(state="hidden")


def submit_and_wait(page: Page, up: Up) -> dict[str, Any]:
    """Submit the run form, wait for the run's end and open its page: the parameters it ran with.

    The server is asked meanwhile: the page's own graph of a run in progress keeps a core busy.
    """
    before = {run["id"] for run in started_by_hand(up)}
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("^(?!.*/run).*$"))
    page.goto("about:blank")

    def ended() -> dict[str, Any] | None:
        runs = [run for run in started_by_hand(up) if run["id"] not in before]
        return next((run for run in runs if run["state_type"] in ENDS), None)

    wait_until(lambda: ended() is not None, RUN_SECONDS, "the run ends")
    run = ended()
    assert run is not None
    assert run["state_name"] == "Completed", run["state"]
    page.goto(f"{up.prefect}/v2/runs/flow-run/{run['id']}")
    page.get_by_text("Completed").first.wait_for()
    parameters: dict[str, Any] = run["parameters"]
    return parameters


def started_by_hand(up: Up) -> list[dict[str, Any]]:
    """The runs on the server that no schedule created."""
    asked = {"flow_runs": {"parent_task_run_id": {"is_null_": True}}}
    found = json.loads(get(f"{up.prefect}/api/flow_runs/filter", asked, up.password))
    return [run for run in found if not run["auto_scheduled"]]


def open_artifact(page: Page, key: str) -> None:
    """From a flow run's page to the newest version of one of its artifacts."""
    page.reload()  # The tab keeps what it knew while the run was going on.
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("link", name=key).click()
    page.wait_for_url("**/artifacts/artifact/**")


def expect_picture(picture: Locator) -> None:
    """Wait until an image has really been loaded: a broken one has no width of its own."""
    expect(picture).to_be_visible()
    expect(picture).not_to_have_js_property("naturalWidth", 0)


def open_model_version(page: Page, mlflow: str, name: str, version: int) -> None:
    """A model version's page in MLflow, in the mode that has a registry."""
    page.goto(f"{mlflow}/#/models/{name}/versions/{version}?workflowType=machine_learning")
    page.get_by_role("heading", name=f"Version {version}").wait_for()


def set_alias(page: Page, alias: str, shoot: Shoot) -> None:
    """Give the model version in view an alias, through MLflow's dialog."""
    # The page has another 'Add', for tags, below.
    page.get_by_role("main").get_by_role("button", name="Add", exact=True).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").click()
    page.keyboard.type(alias)
    page.keyboard.press("Enter")
    shoot("alias-dialog")
    dialog.get_by_role("button", name="Save aliases").click()
    dialog.wait_for(state="hidden")
    expect(page.get_by_role("main").get_by_role("status", name=alias)).to_be_visible()
