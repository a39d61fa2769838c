"""Which Prefect server flows use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows import home
from flows.home import prepare_prefect
from flows.up import UpState
from registry import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return Settings(home=tmp_path / "home")


def test_nothing_of_the_users_is_touched(settings: Settings) -> None:
    prepare_prefect(settings, quiet=True)
    assert os.environ["PREFECT_HOME"] == str(settings.home / "prefect")
    assert Path(os.environ["PREFECT_HOME"]).is_dir(), "Prefect makes the last folder alone"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "PREFECT_API_URL" not in os.environ


def test_the_server_of_modkernel_up_is_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = UpState(os.getpid(), "http://127.0.0.1:4299", "http://127.0.0.1:5099")
    monkeypatch.setattr(home, "running", lambda _: state)
    prepare_prefect(settings)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4299/api"


def test_what_the_user_set_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["PREFECT_API_URL"] = "http://prefect.example/api"
    os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "5"
    prepare_prefect(settings)
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "5"
    assert "PREFECT_HOME" not in os.environ
