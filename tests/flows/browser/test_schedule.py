"""A schedule set in Prefect's page, in a real browser, creates runs that finish."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from playwright.sync_api import Browser, expect
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType

from modkernel.flows import maintenance
from modkernel.flows.deployments.forms.network import NetworkForm, train_network
from tests.flows.browser.page import (
    fresh_page,
    log_in,
    open_run_form,
    open_schedule_form,
    save_schedule,
)
from tests.flows.helpers.prefect_client import deployment, due_runs, prefect_client
from tests.flows.helpers.processes import wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny

NETWORK = "by-schedule"


def of_schedules(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Runs that are due and that no person asked for, as other tests do on the same server."""
    due = due_runs(client, deployment, datetime.now(UTC))
    return [run for run in due if run.auto_scheduled]


def has_begun(client: SyncPrefectClient, deployment: UUID) -> bool:
    """Whether a run has: its schedule has done its work, and more runs would only be in the way."""
    runs = of_schedules(client, deployment)
    return any(run.state and not run.state.is_scheduled() for run in runs)


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_schedule_set_in_the_browser_runs(up: Up, browser: Browser, tmp_path: Path) -> None:
    prefect = up.prefect
    with (
        fresh_page(browser, tmp_path) as (page, shoot),
        prefect_client(prefect, up.home) as client,
    ):
        log_in(page, prefect, up.password)
        network = deployment(client, "train-network")

        def ended() -> list[FlowRun]:
            runs = of_schedules(client, network.id)
            return [run for run in runs if run.state and run.state.is_final()]

        dialog = open_schedule_form(page, prefect, "train-network")
        save_schedule(page, dialog, 86_400)
        expect(page.get_by_text("Every 1 day")).to_be_visible()
        shoot("schedule-of-the-deployment")
        (plain,) = deployment(client, "train-network").schedules
        # Nothing typed: the form's example.
        assert train_network.validate_parameters(plain.parameters) == {
            "spec": NetworkForm().parameters()["spec"]
        }

        dialog = open_schedule_form(page, prefect, "train-network")
        dialog.get_by_role("textbox", name="Name (Optional)", exact=True).fill(NETWORK)
        dialog.get_by_role("spinbutton", name="Epochs").fill("3")
        shoot("schedule-dialog")
        save_schedule(page, dialog, 20)
        shoot("schedule-saved")
        wait_until(lambda: has_begun(client, network.id), 300, "a scheduled run begins")
        for made in deployment(client, "train-network").schedules:
            client.delete_deployment_schedule(network.id, made.id)
        wait_until(lambda: bool(ended()), 600, "a scheduled run ends")
        run = ended()[0]
        assert run.state is not None
        assert run.state_type == StateType.COMPLETED, run.state.message
        assert run.name == NETWORK
        page.goto(f"{prefect}/v2/runs/flow-run/{run.id}")
        expect(page.get_by_text("Completed").first).to_be_visible()
        shoot("schedule-run")

        dialog = open_schedule_form(page, prefect, maintenance.NAME)
        save_schedule(page, dialog, 86_400)
        shoot("schedule-of-maintenance")
        assert len(deployment(client, maintenance.NAME).schedules) == 2


@pytest.mark.browser
@pytest.mark.servers
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_deployed_spec_is_scheduled_by_clicks_alone(
    up: Up, browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "by-clicks.yaml"
    path.write_text(yaml.safe_dump(tiny("by-clicks").model_dump(mode="json")))
    made = up.modkernel("deploy", str(path))
    with (
        fresh_page(browser, tmp_path) as (page, shoot),
        prefect_client(up.prefect, up.home) as client,
    ):
        log_in(page, up.prefect, up.password)
        dialog = open_schedule_form(page, up.prefect, "by-clicks")
        shoot("deployed-schedule-dialog")
        save_schedule(page, dialog, 20)

        def ended() -> list[FlowRun]:
            runs = due_runs(client, UUID(made["id"]), datetime.now(UTC))
            return [run for run in runs if run.state and run.state.is_final()]

        wait_until(lambda: has_begun(client, UUID(made["id"])), 300, "a scheduled run begins")
        for every in client.read_deployment(made["id"]).schedules:
            client.delete_deployment_schedule(UUID(made["id"]), every.id)
        wait_until(lambda: bool(ended()), 600, "a scheduled run ends")
        run = ended()[0]
        page.reload()
        shoot("deployed-page")
        open_run_form(page, up.prefect, "by-clicks")
        shoot("deployed-run-form")
        client.delete_deployment(UUID(made["id"]))
    assert run.state is not None
    assert run.state_type == StateType.COMPLETED, run.state.message
    assert run.parameters == {"spec": tiny("by-clicks").model_dump(mode="json")}
