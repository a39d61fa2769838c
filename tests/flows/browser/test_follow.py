"""An alias that a person moves: by clicks in MLflow, and by a decision on Prefect's page.

A network that follows it is composed again, and nobody asks for that.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import Browser, Page, expect
from prefect.client.schemas.objects import StateType

from modkernel.registry import NetworkRecord, Registry, Settings
from modkernel.system.files import hash_file
from tests.flows.browser.page import (
    Shoot,
    fresh_page,
    log_in,
    open_model_version,
    set_alias,
)
from tests.flows.helpers.prefect_client import ask_for_decision, prefect_client, wait_for_end
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny

PATIENCE = 90
HIDDEN = "leader.hidden-2"


def bytes_of(registry: Registry, network: NetworkRecord) -> list[str]:
    before = os.umask(0o077)  # As of a command: what is brought into the home is its user's alone.
    try:
        return [
            hash_file(file)
            for module in registry.networks.members(network)
            for file in sorted(registry.modules.fetch(module).folder.iterdir())
        ]
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def two_versions(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Up:
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    for seed in (41, 42):  # Of no other test: what is stored is reused under its own name.
        path.write_text(tiny("leader").changed(seed=seed).model_dump_json())
        up.modkernel("train", str(path))
    return up


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_alias_moved_by_clicks_composes_what_follows_it(
    two_versions: Up, browser: Browser, tmp_path: Path
) -> None:
    up = two_versions
    promoted = up.modkernel("modules", "promote", f"{HIDDEN}/1", "best", "--reason", "the first")
    assert (promoted["version"], promoted["reason"]) == (1, "the first")
    composed = ("compose", f"{HIDDEN}@best", "--name", "follower", "--method", "ridge", "--follow")
    up.modkernel(*composed)
    with Registry.open(Settings(home=up.home)) as registry:
        (first,) = registry.networks.find("follower")
        before = bytes_of(registry, first)
        newer = registry.modules.resolve(f"{HIDDEN}/2")
        with fresh_page(browser, tmp_path) as (page, shoot):
            open_model_version(page, up.mlflow, HIDDEN, 2)
            set_alias(page, "best", shoot)
            shoot("alias-moved")
        began = time.monotonic()
        wait_until(
            lambda: len(registry.networks.find("follower")) == 2,
            PATIENCE,
            "the network is composed again",
        )
        print(f"composed again {time.monotonic() - began:.0f} s after the alias was moved")
        _, second = registry.networks.find("follower")
        assert newer.id in second.module_ids
        assert newer.id not in first.module_ids
        assert bytes_of(registry, first) == before
        history = registry.promotions.history(HIDDEN)
        assert [(one.before, one.version, one.who is None) for one in history] == [
            (None, 1, False),
            (1, 2, True),
        ]
        with prefect_client(up.prefect, up.home) as client:
            (automation,) = [one for one in client.read_automations() if "follows" in one.name]
            assert automation.name == f"modkernel: network follower follows {HIDDEN}@best"
            client.delete_automation(automation.id)


def decide(page: Page, up: Up, run: UUID, promote: bool, shoot: Shoot) -> None:
    """Look at what the gate shows on the run's page, and answer it with a comment."""
    log_in(page, up.prefect, up.password)
    page.goto(f"{up.prefect}/v2/runs/flow-run/{run}")
    expect(page.get_by_text("Suspended").first).to_be_visible()
    shoot("gate-waits")
    page.locator("main button[aria-haspopup='menu']").first.click()
    page.get_by_role("menuitem", name="Resume").click()
    dialog = page.get_by_role("dialog")
    for shown in (f"{HIDDEN}/1", f"{HIDDEN}/2", "worst class"):
        expect(dialog.get_by_role("cell", name=shown)).to_be_visible()
    if promote:
        dialog.get_by_role("switch").click()
    dialog.get_by_role("textbox").last.fill("seen by me")
    shoot("gate-dialog")
    dialog.get_by_role("button", name="Resume").click()
    dialog.wait_for(state="hidden")
    shoot("gate-decided")


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("promote", [False, True])
def test_a_person_decides_on_a_promotion(
    two_versions: Up, promote: bool, browser: Browser, tmp_path: Path
) -> None:
    up, alias = two_versions, f"gate-{promote}"
    up.modkernel("modules", "promote", f"{HIDDEN}/1", alias)
    with prefect_client(up.prefect, up.home) as client:
        run = ask_for_decision(client, f"{HIDDEN}/2", alias)
        with fresh_page(browser, tmp_path) as (page, shoot):
            decide(page, up, run, promote, shoot)
            assert wait_for_end(client, run).state_type == StateType.COMPLETED
            page.reload()
            expect(page.get_by_text("Completed").first).to_be_visible()
            shoot("gate-done")
    with Registry.open(Settings(home=up.home)) as registry:
        moves = [one for one in registry.promotions.history(HIDDEN) if one.alias == alias]
        assert [(one.version, one.reason) for one in moves] == [
            (1, None),
            *([(2, "seen by me")] if promote else []),
        ]
