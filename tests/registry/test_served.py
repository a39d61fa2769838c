"""A home whose MLflow server others use: its login, and what was stored before."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from modkernel.registry import Settings
from modkernel.registry.tracking.login import PASSWORD, USER, admin_login, log_in, password_file
from modkernel.registry.tracking.moved import PLACES
from modkernel.registry.tracking.served import prepare_store
from tests.registry.helpers.stored_homes import copy_home

HERE, ELSEWHERE = "http://127.0.0.1:5000", "http://192.0.2.1:5000"


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER, PASSWORD):
        monkeypatch.delenv(name, raising=False)


def test_no_other_server_is_sent_the_password(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", mlflow_uri=HERE)
    log_in(settings)
    assert PASSWORD not in os.environ, "the home runs none"
    _, password = admin_login(settings)
    assert password_file(settings).stat().st_mode & 0o777 == 0o600
    for other in (ELSEWHERE, HERE.replace("5000", "5001"), f"sqlite:///{tmp_path}/mlflow.db"):
        log_in(settings.model_copy(update={"mlflow_uri": other}))
        assert PASSWORD not in os.environ, other
    log_in(settings)
    assert (os.environ[USER], os.environ[PASSWORD]) == ("modkernel", password)


def test_the_users_own_login_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path / "home", mlflow_uri=HERE)
    admin_login(settings)
    monkeypatch.setenv(USER, "anna")
    monkeypatch.setenv(PASSWORD, "hunter2hunter2")
    log_in(settings)
    assert (os.environ[USER], os.environ[PASSWORD]) == ("anna", "hunter2hunter2")


def test_what_was_stored_before_is_reached_through_the_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(home=tmp_path / "home with a blank", mlflow_uri=HERE)
    copy_home(tmp_path_factory, "empty", settings.home)
    prepare_store(settings)
    places = {
        1: f"{settings.artifact_root.as_uri()}/digits",
        2: f"{settings.artifact_root}/digits/models/m-1",
        3: "s3://bucket/digits",
        4: f"{settings.artifact_root}-elsewhere/digits",
    }
    with closing(sqlite3.connect(settings.home / "mlflow.db")) as connection, connection:
        for number, place in places.items():
            connection.execute(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
                " VALUES (?, ?, ?, 'active')",
                (number, str(number), place),
            )
    prepare_store(settings)
    with closing(sqlite3.connect(settings.home / "mlflow.db")) as connection:
        rows = connection.execute(
            f"SELECT experiment_id, {PLACES['experiments']} FROM experiments"
        ).fetchall()
    found = {number: place for number, place in rows if number in places}
    assert found == {
        1: "mlflow-artifacts:/digits",
        2: "mlflow-artifacts:/digits/models/m-1",
        3: places[3],
        4: places[4],
    }
