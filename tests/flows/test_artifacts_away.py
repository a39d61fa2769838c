"""What is shown in Prefect never ends what is trained: its server may be away."""

from __future__ import annotations

import logging
from uuid import uuid4

import httpx
import pytest

from modkernel.flows.display import artifacts
from modkernel.flows.display.artifacts import ProgressArtifact, leave_page


def away(*_: object, **__: object) -> None:
    raise httpx.ConnectError("refused")


@pytest.fixture(autouse=True)
def plain_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))


def test_a_bar_stands_still_and_asks_no_more_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def refused(_: object, percent: float) -> None:
        asked.append(percent)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *_, **__: uuid4())
    monkeypatch.setattr(artifacts, "update_progress_artifact", refused)
    monkeypatch.setattr(artifacts, "UPDATE_SECONDS", 0.0)
    bar = ProgressArtifact("net.hidden-1")
    for epoch in range(1, 5):
        bar.show(epoch, 4)
    assert asked == [50.0]


def test_a_page_that_cannot_be_left_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "create_markdown_artifact", away)
    leave_page("# Page", key="page", description="Module net")
    assert "Module net is not shown in Prefect" in caplog.text
