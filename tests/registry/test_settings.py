from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modkernel.errors import SettingsError, StoreError
from modkernel.registry import Settings
from modkernel.registry.promotions import caller
from modkernel.registry.settings import masked
from modkernel.registry.sql.engine import open_database

SECRET_URL = "postgresql://anna:hunter2@db.example/modkernel"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODKERNEL_SETTINGS", "MODKERNEL_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_home_holds_everything_by_default(tmp_path: Path) -> None:
    settings = Settings()
    home = tmp_path / ".modkernel"
    assert settings.home == home
    assert settings.registry_url == f"sqlite:///{home}/registry.db"
    assert settings.mlflow_uri == f"sqlite:///{home}/mlflow.db"
    assert {settings.artifact_root, settings.data_root, settings.work_dir} == {
        home / "artifacts",
        home / "data",
        home / "work",
    }


def test_argument_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text("cpu_slots = 2\nlease_seconds = 2\nmlflow_port = 2\n")
    monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path))
    monkeypatch.setenv("MODKERNEL_LEASE_SECONDS", "3")
    monkeypatch.setenv("MODKERNEL_MLFLOW_PORT", "3")
    settings = Settings(mlflow_port=4)
    assert (settings.cpu_slots, settings.lease_seconds, settings.mlflow_port) == (2, 3, 4)


def test_a_named_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "team.toml"
    file.write_text("cpu_slots = 7\n")
    monkeypatch.setenv("MODKERNEL_SETTINGS", str(file))
    assert Settings().cpu_slots == 7
    monkeypatch.setenv("MODKERNEL_SETTINGS", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match=r"absent\.toml does not exist: correct MODKERNEL_SET"):
        Settings()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("device = 'tpu'", "Setting 'device': .*'auto', 'cpu' or 'cuda'"),
        ("cpu_slots = 0", "Setting 'cpu_slots': .*greater than or equal to 1"),
        ("no_such = 1", "Setting 'no_such': no such setting; there are home, database_url"),
        ("database_url = 'mysql://x/y'", "Setting 'database_url': use sqlite:///FILE or postgres"),
        ("data_paths = {'a/b' = '/x'}", "Setting 'data_paths': 'a/b' with the path '/x' names no"),
        ("database_url = 'nonsense'", "Setting 'database_url': write it as postgresql://"),
        ("home = 3", "Setting 'home': "),
        ("= broken", r"Cannot read the settings file .*settings\.toml"),
    ],
)
def test_a_bad_value_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    (tmp_path / "settings.toml").write_text(line)
    monkeypatch.setenv("MODKERNEL_SETTINGS", str(tmp_path / "settings.toml"))
    with pytest.raises(SettingsError, match=message) as caught:
        Settings()
    assert "\n" not in str(caught.value)


def test_a_user_without_name_and_home_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `docker run --user 12345` has one, or a service."""

    def nobody(_: object) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    told = "no home folder is known .* write a whole path .*MODKERNEL_HOME"
    with pytest.raises(SettingsError, match=f"'home': {told}"):
        Settings()
    with pytest.raises(SettingsError, match=f"'data_root': {told}"):
        Settings(home=tmp_path, data_root="~/data")
    with pytest.raises(SettingsError, match=f"'data_paths': {told}"):
        Settings(home=tmp_path, data_paths="here=~nobody-of-this-name/data")
    assert caller(Settings(home=tmp_path)) == str(os.getuid())
    monkeypatch.setenv("MODKERNEL_SETTINGS", "~/settings.toml")
    with pytest.raises(SettingsError, match=f"MODKERNEL_SETTINGS': {told}"):
        Settings(home=tmp_path)


def test_passwords_are_masked_wherever_settings_are_shown() -> None:
    settings = Settings(database_url=SECRET_URL, mlflow_uri=SECRET_URL)
    with_driver = SECRET_URL.replace("://", "+psycopg://", 1)
    assert settings.registry_url == settings.mlflow_uri == with_driver
    assert str(settings.public()).count("db.example") == 2
    assert "hunter2" not in f"{settings!r} {settings} {settings.public()}"
    assert masked(SECRET_URL) == "postgresql://anna:***@db.example/modkernel"


def test_a_password_in_the_query_is_masked_too() -> None:
    url = "postgresql://db.example/modkernel?password=hunter2&sslPassword=hunter2&sslmode=require"
    shown = "postgresql://db.example/modkernel?password=***&sslPassword=***&sslmode=require"
    assert masked(url) == shown
    assert masked("sqlite:////tmp/ein Häuschen & mehr/x.db").endswith(
        "/tmp/ein Häuschen & mehr/x.db"
    )
    settings = Settings(database_url=url, mlflow_uri=url)
    assert "hunter2" not in f"{settings!r} {settings} {settings.public()}"
    assert "password=hunter2" in settings.registry_url
    database = "postgresql://127.0.0.1:1/modkernel?password=hunter2&connect_timeout=2"
    with pytest.raises(StoreError, match=r"password=\*\*\*") as caught:
        open_database(Settings(database_url=database))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("setting", ["home", "artifact_root"])
@pytest.mark.parametrize(
    ("name", "said"),
    [("a%20b", "has '%' in it"), ("a?b", "has '[?]'"), ("a#b", "has '#'"), ("a\nb", "printed")],
)
def test_a_folder_that_urls_would_misread_is_refused(
    tmp_path: Path, setting: str, name: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=rf"Setting '{setting}': .*{said}.*name a folder"):
        Settings(**{setting: tmp_path / name})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["mysql://anna:hunter2@db.example/x", "postgresql://db.example:hunter2/x"]
)
def test_a_refused_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(database_url=url)
    assert "hunter2" not in str(caught.value)


def test_names_of_data_come_from_a_table_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("cpu_slots = 2\n[data_paths]\nbirds = '~/birds'\n'x-2' = '/x, y'\n")
    monkeypatch.setenv("MODKERNEL_SETTINGS", str(settings))
    found = Settings()
    assert found.places.paths == {"birds": tmp_path / "birds", "x-2": Path("/x, y")}
    assert hash(found) == hash(Settings())
    monkeypatch.setenv("MODKERNEL_DATA_PATHS", "birds=/mnt/birds, cells=/data/a=b.npz,")
    assert Settings().places.paths == {
        "birds": Path("/mnt/birds"),
        "cells": Path("/data/a=b.npz"),
    }
    for wrong in ("birds", "birds=", "=x"):
        monkeypatch.setenv("MODKERNEL_DATA_PATHS", wrong)
        with pytest.raises(SettingsError, match=r"Setting 'data_paths': .* write NAME=PATH"):
            Settings()


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODKERNEL_HOME", "")
    assert Settings().home == tmp_path / ".modkernel"


def test_trusted_packages_have_commas_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODKERNEL_TRUSTED_PACKAGES", "mine, ours,")
    assert Settings().trusted_packages == ("mine", "ours")
    monkeypatch.setenv("MODKERNEL_TRUSTED_PACKAGES", "mine.nets")
    with pytest.raises(SettingsError, match=r"'mine.nets' is no top-level package"):
        Settings()


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"Cannot write to the home .*MODKERNEL_HOME"):
        Settings(home=tmp_path / "file" / "home").ensure_home()


def test_an_artifact_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(home=tmp_path / "home", artifact_root=tmp_path / "file" / "artifacts")
    with pytest.raises(SettingsError, match=r"artifact folder .*MODKERNEL_ARTIFACT_ROOT"):
        settings.ensure_home()
    settings.model_copy(update={"mlflow_uri": "http://elsewhere:5000"}).ensure_home()


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Whatever is made is open to everybody, unless it is made otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def loose(*paths: Path) -> list[Path]:
    """Those that others have rights to."""
    return [path for path in paths if path.stat().st_mode & 0o077]


@pytest.mark.usefixtures("open_umask")
def test_a_home_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", artifact_root=tmp_path / "shared")
    settings.ensure_home()
    assert loose(settings.home, *settings.home.iterdir()) == []
    assert loose(settings.artifact_root) == [settings.artifact_root]


@pytest.mark.usefixtures("open_umask")
def test_an_open_home_is_closed_with_all_that_is_in_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    deep = settings.home / "artifacts/1/model"
    deep.mkdir(parents=True)
    elsewhere = tmp_path / "pictures"
    elsewhere.mkdir()
    (deep / "weights").write_text("")
    (settings.home / "registry.db").write_text("")
    (settings.home / "registry.db").chmod(0o640)
    (settings.home / "data").symlink_to(elsewhere)
    settings.ensure_home()
    assert loose(settings.home, *(set(settings.home.rglob("*")) - {settings.home / "data"})) == []
    assert loose(elsewhere) == [elsewhere], "what a link points to is not in the home"


@pytest.mark.usefixtures("open_umask")
def test_what_is_not_ours_in_a_shared_folder_is_left_alone(tmp_path: Path) -> None:
    team = tmp_path / "team"
    theirs = team / "theirs"
    theirs.mkdir(parents=True)
    (team / "mlflow.db").write_text("")
    Settings(home=team).ensure_home()
    assert loose(team, theirs, *team.glob("[mw]*")) == [team, theirs]


@pytest.mark.usefixtures("open_umask")
def test_names_that_only_begin_as_ours_are_not_ours(tmp_path: Path) -> None:
    theirs = [
        tmp_path / name
        for name in ("database-of-ann", "logs-of-otto", "mlflow", "prefect.yaml", "workshop")
    ]
    ours = [
        tmp_path / name
        for name in ("mlflow-auth.ini", "prefect-password", "registry.db-wal", "studies")
    ]
    for folder in (*theirs, *ours):
        folder.mkdir()
    Settings(home=tmp_path).ensure_home()
    assert loose(*theirs, *ours) == theirs


def test_settings_tell_what_was_opened_with_them(tmp_path: Path) -> None:
    """Flows open one registry for equal settings."""
    made = [
        Settings(home=tmp_path, protected_aliases=["a:b"], data_paths={"x": tmp_path})
        for _ in range(2)
    ]
    assert len({*made}) == 1
