"""The command line: help without weight, one sentence for an error, tables and JSON."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from modkernel.errors import StoreError
from modkernel.flows.cli import main, maintenance
from modkernel.flows.servers import up as servers
from modkernel.registry import Settings
from modkernel.registry.tracking.client import open_mlflow
from modkernel.registry.tracking.errors import translated
from tests.registry.helpers.stored_homes import copy_home

ROOT = Path(__file__).parent.parent.parent


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that does not exist yet."""
    monkeypatch.setenv("MODKERNEL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stores(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home with both databases, empty."""
    copy_home(tmp_path_factory, "empty", home)
    return home


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `modkernel` with these arguments in this process."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["modkernel", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        captured = capsys.readouterr()
        return Done(0 if code is None else int(code), captured.out, captured.err)

    return run


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["modkernel", "--help"]
from modkernel.flows.cli import main, maintenance
try:
    main()
finally:
    heavy = {"torch", "mlflow", "prefect", "sqlalchemy", "numpy", "modkernel.spec"}
    print("IMPORTED", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "IMPORTED []" in done.stdout
    for command in (
        *("demo", "train", "train-module", "compose", "baseline", "advise", "retrain", "search"),
        *("labels", "bundle", "push", "pull", "export", "serve-network"),
        *("modules", "networks", "predict", "verify", "repair", "up", "serve", "doctor", "schema"),
    ):
        assert f"│ {command} " in done.stdout


def test_without_torch_a_sentence_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(obj: int) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("modkernel.flows.cli.app.app", absent)
    done = run("demo")
    assert (done.code, "PyTorch is not installed here" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("train", "none.yaml"), "There is no spec file none.yaml"),
        (("modules", "show", "nobody"), "nobody"),
        (("networks", "show", "nobody"), "nobody"),
        (("predict", "nobody", "x.png"), "nobody"),
        (("export", "nobody", "x", "--to", "onnx"), "No module answers to 'nobody'"),
        (("export", "nobody", "x", "--to", "pickle"), "use one of state-dict, onnx, torch-export"),
    ],
)
def test_an_error_is_one_sentence_on_stderr(
    run: Run, stores: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run(*arguments)
    assert done.code == 1
    assert done.out == ""
    assert sentence in done.err
    assert done.err.startswith("modkernel: ")
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err


def test_wrong_usage_exits_with_two(run: Run) -> None:
    assert run("modules", "find", "--takes", "big").code == 2
    assert run("modules", "find", "--kind", "odd").code == 2
    assert run("nothing").code == 2


def test_ctrl_c_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modkernel.flows.servers.doctor.examine", interrupted)
    done = run("doctor")
    assert done.code == 130
    assert "Traceback" not in done.err


def full_disk_below(_: object) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise RuntimeError("the server failed") from error


@pytest.mark.parametrize("free", [0, 2**40])
def test_a_full_disk_is_one_sentence(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Seen in the error, or, where a server of ours only says that it failed, on the disk."""

    def broken(_: object) -> None:
        raise ConnectionError("Internal Server Error")

    failing = full_disk_below if free else broken
    monkeypatch.setattr("modkernel.flows.servers.doctor.examine", failing)
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr("modkernel.system.files.shutil.disk_usage", lambda _: usage)
    done = run("doctor")
    assert done.code == 1
    told = f"modkernel: The disk is full ({home}): free some space, then run the same command again"
    assert done.err == f"{told}.\n"


def test_mlflow_logs_no_traceback_of_a_database_that_cannot_write(
    stores: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=stores)
    client = open_mlflow(settings)
    with closing(sqlite3.connect(stores / "mlflow.db")) as connection:
        connection.execute("DROP TABLE runs")
    with pytest.raises(StoreError), translated(settings.mlflow_uri):
        client.create_run("0")
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_that_is_a_bug_keeps_its_traceback(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("modkernel.flows.servers.doctor.examine", broken)
    monkeypatch.setattr(sys, "argv", ["modkernel", "doctor"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_an_empty_registry_lists_nothing(run: Run, stores: Path) -> None:
    assert json.loads(run("modules", "list", "--json").out) == []
    assert json.loads(run("networks", "list", "--json").out) == []
    assert json.loads(run("modules", "find", "--takes", "3,32,32", "--json").out) == []
    assert run("modules", "list").code == 0


def test_schema_is_json(run: Run) -> None:
    assert json.loads(run("schema").out)["properties"].keys() >= {"name", "hidden"}


def statuses(text: str) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in json.loads(text)}


def test_doctor_finds_a_good_installation_well(run: Run, stores: Path) -> None:
    done = run("doctor", "--json")
    found = statuses(done.out)
    assert done.code == 0
    assert "wrong" not in found.values()
    assert {"python", "torch", "devices", "home", "disk", "registry", "mlflow store"} <= set(found)
    assert str(stores) in run("doctor").out


def test_doctor_says_what_is_wrong_and_checks_the_rest(
    run: Run, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stores / "registry.db").write_bytes(b"this is no database" * 100)
    done = run("doctor", "--json")
    found = statuses(done.out)
    assert done.code == 1
    assert (found["registry"], found["mlflow store"]) == ("wrong", "ok")
    monkeypatch.setenv("MODKERNEL_DEVICE", "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert statuses(run("doctor", "--json").out)["devices"] == "wrong"


def test_an_unwritable_home_is_wrong(run: Run, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")
    done = run("doctor", "--json")
    assert done.code == 1
    assert statuses(done.out)["home"] == "wrong"
    done = run("modules", "list")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "MODKERNEL_HOME" in done.err


def test_doctor_names_a_schema_of_another_version_and_upgrades(run: Run, stores: Path) -> None:
    with closing(sqlite3.connect(stores / "registry.db")) as database, database:
        database.execute("UPDATE modkernel_schema SET version_num = '9999'")
    done = run("modules", "list")
    assert done.code == 1
    assert "9999" in done.err
    assert statuses(run("doctor", "--json").out)["registry"] == "wrong"
    assert run("doctor", "--upgrade").code == 1, "a newer database cannot be upgraded"
    (stores / "registry.db").unlink()
    done = run("doctor", "--upgrade", "--json")
    assert done.code == 0
    assert "schema version" in done.err


@pytest.mark.parametrize("name", ["MLFLOW", "PREFECT"])
def test_up_names_a_port_in_use_and_starts_nothing(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv(f"MODKERNEL_{name}_PORT", str(port))
        done = run("up")
    assert done.code == 1
    assert f"Port {port} is in use" in done.err
    assert f"MODKERNEL_{name}_PORT" in done.err
    assert not home.exists()


def test_up_tells_the_password_on_a_terminal_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file may be read by others, now or later."""
    told: list[bool] = []
    monkeypatch.setattr(servers, "up", lambda *given: told.append(given[2]))
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert run("up").code == 0
    assert told == [True, False]
    assert servers._where(Settings()) == f"it is in {Settings().home}/prefect-password"


def test_up_refuses_one_port_for_both(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODKERNEL_MLFLOW_PORT", "4999")
    monkeypatch.setenv("MODKERNEL_PREFECT_PORT", "4999")
    done = run("up")
    assert done.code == 1
    assert "4999" in done.err


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_what_another_process_has_in_hand_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    sentence = "Module 0123 (a) is being stored by process 7 on host."
    registry = SimpleNamespace(verify=tuple, repair=tuple, at_work=lambda: (sentence,))
    monkeypatch.setattr(maintenance, "stored", lambda: registry)
    done = run(command)
    assert (done.code, done.out) == (0, "")
    first, last = done.err.splitlines()
    assert first == sentence
    assert last in ("Every other stored module is whole.", "There was nothing else to repair.")
