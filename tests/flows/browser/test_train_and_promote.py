"""The whole path as a person goes it: both UIs in a real browser, then the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from modkernel.flows.deployments.forms.network import NetworkForm
from modkernel.spec import NetworkSpec
from tests.flows.browser.page import (
    Shoot,
    browser_page,
    choose,
    expect_picture,
    log_in,
    open_artifact,
    open_model_version,
    open_run_form,
    set_alias,
    submit_and_wait,
)
from tests.flows.helpers.servers import Up

NETWORK = "by-hand"
MODULE = f"{NETWORK}.hidden-2"


def wanted() -> NetworkForm:
    """A quick network, as the short form asks for it."""
    return NetworkForm(name=NETWORK, epochs=3, kernel="relu", labels_per_class=1, method="ridge")


def wanted_spec() -> NetworkSpec:
    """What a spec file says of it."""
    spec: NetworkSpec = wanted().parameters()["spec"]
    return spec


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


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.timeout(900)
def test_a_network_is_trained_promoted_and_composed_by_hand(up: Up, tmp_path: Path) -> None:
    spec = wanted_spec().changed(seed=1)
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(spec.model_dump(mode="json")))

    with browser_page(tmp_path) as (page, shoot):
        train_in_prefect(page, up, shoot)
        second = up.modkernel("train", str(other))
        newest = second["modules"][1]
        assert (newest["name"], newest["version"], newest["reused"]) == (MODULE, 2, False)

        promoted = promote_in_mlflow(page, up.mlflow, shoot)
        assert promoted != newest["id"]
        composed = up.modkernel("compose", f"{MODULE}@champion", "--labels-per-class", "1")
    below, champion, output = composed["modules"]
    assert (champion["id"], champion["version"], champion["reused"]) == (promoted, 1, True)
    assert (below["name"], below["version"]) == (f"{NETWORK}.hidden-1", 1)
    assert (output["reused"], composed["evaluation"]["labels"]) == (False, 10)
