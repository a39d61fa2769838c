"""Commands that read what is stored wait neither for torch nor for MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modkernel.registry import Registry, Settings
from tests.flows.helpers.processes import ROOT
from tests.registry.helpers.examples import EVALUATION, Examples, store_chain
from tests.registry.helpers.stored_homes import copy_home

SCRIPT = """
import contextlib, io, json, sys
from modkernel.flows.cli import main
said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["modkernel", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
    said.append([code, out.getvalue(), err.getvalue()])
heavy = ("torch", "numpy", "pandas", "mlflow", "prefect", "alembic", "matplotlib")
print(json.dumps([said, [name for name in heavy if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    settings = Settings(home=folder / "home")
    copy_home(tmp_path_factory, "empty", settings.home)
    with Registry.open(settings) as registry:
        records = store_chain(registry, Examples(folder / "trained").chain(), "a-long-name" * 5)
        registry.networks.add("net", [record.id for record in records], EVALUATION)
    return settings.home


def said(home: Path, columns: int, *commands: list[str]) -> list[list[object]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        env={"MODKERNEL_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers, heavy = json.loads(done.stdout)
    assert heavy == []
    return list(answers)


def test_reading_imports_nothing_heavy(stored: Path, tmp_path: Path) -> None:
    name = "a-long-name" * 5
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: net\nhiden: 2\n")
    answers = said(
        stored,
        120,
        ["modules", "list"],
        ["modules", "list", "--json", "--limit", "1"],
        ["modules", "find", "--kind", "output", "--json"],
        ["modules", "show", f"{name}.hidden-1"],
        ["modules", "show", f"{name}.hidden-1/1", "--json"],
        ["networks", "list"],
        ["networks", "show", "net"],
        ["modules", "show", "nothing"],
        ["networks", "show", "nett"],
        ["--version"],
        ["train", str(bad)],
        ["train", str(tmp_path / "none.yaml")],
    )
    assert [answer[0] for answer in answers] == [0] * 7 + [1, 1, 0, 1, 1]
    assert [module["kind"] for module in json.loads(str(answers[2][1]))] == ["output"]
    assert "These are the newest" not in str(answers[1][2])
    assert "made (UTC)" in str(answers[5][1])
    assert "Did you mean 'net'" in str(answers[8][2])


@pytest.mark.parametrize("columns", [80, 60])
def test_no_name_and_no_id_is_broken_on_a_narrow_terminal(stored: Path, columns: int) -> None:
    lists = ["modules", "list"], ["networks", "list"]
    (code, table, _), (_, networks, _) = said(stored, columns, *lists)
    assert code == 0
    assert "made (UTC)" in str(networks) or columns == 60
    with Registry.open(Settings(home=stored)) as registry:
        for module in registry.modules.find():
            (line,) = [line for line in str(table).splitlines() if module.short_id in line]
            assert module.name in line or columns == 60
