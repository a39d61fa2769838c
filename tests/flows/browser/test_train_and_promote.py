"""The whole path as a person goes it, in a real browser: on Prefect's page and MLflow's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from modkernel.flows.deployments.forms.network import NetworkForm
from modkernel.registry import Registry, Settings
from tests.flows.browser.page import (
    Shoot,
    choose,
    expect_picture,
    fresh_page,
    log_in,
    open_artifact,
    open_model_version,
    open_run_form,
    set_alias,
    submit_and_wait,
)
from tests.flows.helpers.prefect_client import deployment, prefect_client
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up

NETWORK = "by-hand"
MODULE = f"{NETWORK}.hidden-2"
COMPOSED = f"{NETWORK}-composed"


def wanted() -> NetworkForm:
    """A quick network, as the short form asks for it."""
    return NetworkForm(name=NETWORK, epochs=3, kernel="relu", labels_per_class=1, method="ridge")


def fill_form(page: Page) -> None:
    """Turn the form's digits example into `wanted`."""
    page.get_by_role("textbox", name="Name (Optional)", exact=True).fill(NETWORK)
    page.get_by_role("spinbutton", name="Epochs").fill("3")
    choose(page, "Kernel", "relu")
    page.get_by_role("spinbutton", name="Labels Per Class").fill("1")
    choose(page, "Method", "ridge")


def train_in_prefect(page: Page, up: Up, shoot: Shoot) -> None:
    log_in(page, up.prefect, up.password)
    open_run_form(page, up.prefect, "train-network")
    fill_form(page)
    shoot("prefect-form")
    asked = submit_and_wait(page, up)
    shoot("prefect-run")
    assert NetworkForm.model_validate(asked) == wanted()
    open_artifact(page, f"network-{NETWORK}")
    expect(page.get_by_role("heading", name=f"Network {NETWORK}")).to_be_visible()
    expect(page.get_by_role("cell", name=f"{NETWORK}.output")).to_be_visible()
    expect_picture(page.get_by_alt_text("figure"))
    shoot("prefect-summary")


def promote_in_mlflow(page: Page, mlflow: str, shoot: Shoot) -> str:
    """Make version 1 the champion; the module id that its card tells."""
    open_model_version(page, mlflow, MODULE, 1)
    expect(page.get_by_text(f"Hidden module {MODULE}: linear2 of mlp")).to_be_visible()
    expect_picture(page.locator("main img[src*='get-artifact']"))
    shoot("mlflow-card")
    told = page.get_by_text(re.compile("^Module id [0-9a-f]{64}")).inner_text()
    set_alias(page, "champion", shoot)
    shoot("mlflow-champion")
    return told.removeprefix("Module id ").removesuffix(".")


def compose_in_prefect(page: Page, up: Up, shoot: Shoot) -> None:
    """Choose the champion in the form, which offers it soon after it is one."""
    champion = f"{MODULE}@champion"
    with prefect_client(up.prefect, up.home) as client:

        def is_offered() -> bool:
            form = deployment(client, "compose-network").parameter_openapi_schema or {}
            return champion in form["properties"]["hidden"]["enum"]

        wait_until(is_offered, 60, "the champion is a choice")
    open_run_form(page, up.prefect, "compose-network")
    page.get_by_role("textbox", name="Name (Optional)", exact=True).fill(COMPOSED)
    choose(page, "Hidden", champion)
    choose(page, "Method", "ridge")
    shoot("compose-filled")
    asked = submit_and_wait(page, up)
    shoot("compose-run")
    assert (asked["hidden"], asked["method"]) == (champion, "ridge")


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.timeout(900)
def test_a_network_is_trained_promoted_and_composed_by_hand(
    up: Up, browser: Browser, tmp_path: Path
) -> None:
    with fresh_page(browser, tmp_path) as (page, shoot):
        train_in_prefect(page, up, shoot)
        promoted = promote_in_mlflow(page, up.mlflow, shoot)
        compose_in_prefect(page, up, shoot)
    with Registry.open(Settings(home=up.home)) as registry:
        first, composed = (
            registry.networks.members(registry.networks.resolve(name))
            for name in (NETWORK, COMPOSED)
        )
    assert [module.id for module in composed[:2]] == [module.id for module in first[:2]]
    assert (composed[1].id, composed[1].name) == (promoted, MODULE)
    assert composed[2].id != first[2].id
