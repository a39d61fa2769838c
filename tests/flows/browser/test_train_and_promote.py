"""The whole path as a person goes it: both UIs in a real browser, then the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Page, expect

from modkernel.flows.servers.prefect_password import prefect_password
from modkernel.flows.specs.demo import demo_spec
from modkernel.registry import Settings
from modkernel.spec import NetworkSpec
from tests.flows.browser.page import (
    Shoot,
    browser_page,
    expect_picture,
    find_browser,
    log_in,
    open_artifact,
    open_model_version,
    open_run_form,
    set_alias,
    submit_and_wait,
)
from tests.flows.test_cli_up import get, surroundings

NETWORK = "by-hand"
MODULE = f"{NETWORK}.hidden-2"
COMMAND = Path(sys.executable).with_name("modkernel")
BROWSER = find_browser()


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def processes_of(home: Path) -> dict[int, str]:
    """Command lines of the live processes whose environment names the home."""
    setting, found = f"MODKERNEL_HOME={home}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if setting in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


@contextmanager
def servers(environment: dict[str, str], home: Path) -> Iterator[tuple[str, str]]:
    """`modkernel up`: the links to MLflow and Prefect as it tells them; nothing is left after."""
    told = home.parent / "up.log"
    with told.open("w") as log:
        process = subprocess.Popen([COMMAND, "up"], env=environment, stderr=log)

    def ready() -> bool:
        assert process.poll() is None, told.read_text()
        return "Ctrl-C" in told.read_text()

    try:
        wait_until(ready, 600, "both servers answer")
        mlflow, prefect = re.findall(r"(http://[\d.:]+)", told.read_text())
        yield mlflow, prefect
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=90) == 0, told.read_text()
            wait_until(lambda: not processes_of(home), 30, "every process ends")
        finally:
            for pid in processes_of(home):
                os.kill(pid, signal.SIGKILL)


def modkernel(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [COMMAND, *arguments, "--json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def wanted() -> NetworkSpec:
    """The digits example, made quick."""
    spec = demo_spec()
    quick = tuple(
        one.model_copy(update={"recipe": one.recipe.changed(epochs=epochs)})
        for one, epochs in zip(spec.hidden, (2, 3), strict=True)
    )
    assert spec.output is not None
    output = spec.output.changed(method="ridge", draws=5)
    backbone = spec.backbone.changed(width=64, depth=2)
    return spec.model_copy(
        update={"name": NETWORK, "backbone": backbone, "hidden": quick, "output": output}
    )


def fill_form(page: Page) -> None:
    """Turn the form's digits example into `wanted`."""
    page.get_by_role("textbox", name="Name", exact=True).fill(NETWORK)
    page.get_by_role("tabpanel", name="int").first.get_by_role("spinbutton").fill("64")
    page.get_by_role("spinbutton", name="Depth").fill("2")
    for module, epochs in enumerate(("2", "3")):
        page.get_by_role("spinbutton", name="Epochs").nth(module).fill(epochs)
    page.get_by_role("button", name="Select Method").click()
    page.get_by_role("option", name="ridge").click()
    page.get_by_role("spinbutton", name="Draws").fill("5")


def train_in_prefect(page: Page, prefect: str, password: str, shoot: Shoot) -> None:
    log_in(page, prefect, password)
    open_run_form(page, prefect, "train-network")
    fill_form(page)
    shoot("prefect-form")
    state = submit_and_wait(page)
    shoot("prefect-run")
    assert state == "Completed"
    by_hand = {"flow_runs": {"name": {"any_": [NETWORK]}}}  # The daily flow is scheduled, too.
    (run,) = json.loads(get(f"{prefect}/api/flow_runs/filter", by_hand, password))
    assert NetworkSpec.model_validate(run["parameters"]["spec"]) == wanted()
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
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt install chromium)")
def test_a_network_is_trained_promoted_and_composed_by_hand(tmp_path: Path) -> None:
    assert BROWSER is not None
    home = tmp_path / "home"
    screenshots = Path(os.environ.get("MODKERNEL_SCREENSHOTS", tmp_path / "screenshots"))
    screenshots.mkdir(parents=True, exist_ok=True)
    environment, _, _ = surroundings(home)
    spec = wanted().changed(seed=1)
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(spec.model_dump(mode="json")))

    with (
        servers(environment, home) as (mlflow, prefect),
        browser_page(BROWSER, screenshots) as (page, shoot),
    ):
        train_in_prefect(page, prefect, prefect_password(Settings(home=home)), shoot)
        second = modkernel(environment, "train", str(other))
        newest = second["modules"][1]
        assert (newest["name"], newest["version"], newest["reused"]) == (MODULE, 2, False)

        promoted = promote_in_mlflow(page, mlflow, shoot)
        assert promoted != newest["id"]
        composed = modkernel(
            environment, "compose", f"{MODULE}@champion", "--labels-per-class", "1"
        )
    below, champion, output = composed["modules"]
    assert (champion["id"], champion["version"], champion["reused"]) == (promoted, 1, True)
    assert (below["name"], below["version"]) == (f"{NETWORK}.hidden-1", 1)
    assert (output["reused"], composed["evaluation"]["labels"]) == (False, 10)
