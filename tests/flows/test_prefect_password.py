"""The password of a home's Prefect servers."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from modkernel.errors import SettingsError
from modkernel.flows.servers.prefect_password import OWN_SERVER, password_file, prefect_password
from modkernel.registry import Settings

# Waits for the file `go`, so that all ask at the same moment.
ASK = """
import os, sys, time
from modkernel.flows.servers.prefect_password import prefect_password
from modkernel.registry import Settings
print(flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.0001)
print(prefect_password(Settings()))
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv(OWN_SERVER, raising=False)
    return Settings(home=tmp_path / "home")


def test_each_home_has_its_own_and_keeps_it(settings: Settings, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first = prefect_password(settings)
    finally:
        os.umask(before)
    assert len(first) == 32
    assert prefect_password(settings) == first
    assert prefect_password(Settings(home=tmp_path / "other")) != first
    assert password_file(settings).stat().st_mode & 0o777 == 0o600
    assert list(settings.home.glob(".*")) == [], "no temporary file is left"


def test_all_that_ask_at_once_get_the_same(settings: Settings, tmp_path: Path) -> None:
    go = tmp_path / "go"
    environment = os.environ | {"MODKERNEL_HOME": str(settings.home)}
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(go)],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in asking:
        assert process.stdout is not None
        process.stdout.readline()
    go.touch()
    given = {process.communicate(timeout=120)[0].strip() for process in asking}
    assert given == {prefect_password(settings)}


def test_a_disk_without_hard_links(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    found = prefect_password(settings)
    assert len(found) == 32
    assert prefect_password(settings) == found
    assert stat.S_IMODE(password_file(settings).stat().st_mode) == 0o600
    assert not list(settings.home.glob(".prefect-password*"))


def test_the_users_own_is_used(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN_SERVER, "anna:hunter2")
    assert prefect_password(settings) == "anna:hunter2"
    assert not settings.home.exists()


def test_an_empty_file_is_no_password(settings: Settings) -> None:
    settings.ensure_home()
    password_file(settings).write_text("\n")
    with pytest.raises(SettingsError, match=r"prefect-password is empty: delete it"):
        prefect_password(settings)
