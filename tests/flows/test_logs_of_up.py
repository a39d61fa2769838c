"""What the processes of `modkernel up` leave in the logs of its home."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from uvicorn.main import main as uvicorn

from modkernel.errors import ServiceError
from modkernel.flows.servers.reach import Reach
from modkernel.flows.servers.services import mlflow_service
from modkernel.flows.servers.supervisor import Service, Supervisor
from modkernel.registry import Settings


def test_what_a_service_said_before_it_was_started_anew_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs/mlflow.log"
    for word in ("first", "second", "third"):
        command = [sys.executable, "-c", f"raise SystemExit({word!r})"]
        with pytest.raises(ServiceError, match=word), Supervisor() as children:
            children.start([Service("it", command, {}, log, lambda: False)], lambda: False)
    assert {file.name: file.read_text() for file in log.parent.iterdir()} == {
        "mlflow.log": "third\n",
        "mlflow.log.1": "second\n",
    }


@pytest.mark.parametrize("encrypted", [False, True])
def test_mlflows_server_logs_no_line_a_request(tmp_path: Path, encrypted: bool) -> None:
    files = {"certificate": tmp_path / "the certificate.pem", "key": tmp_path / "key.pem"}
    for file in files.values():
        file.touch()
    reached = Reach("0.0.0.0", "team.example", ("team.example",), **files if encrypted else {})
    command = mlflow_service(Settings(home=tmp_path), reached).command
    options = shlex.split(command[command.index("--uvicorn-opts") + 1])
    told = uvicorn.make_context("uvicorn", [*options, "module:app"]).params
    assert told["access_log"] is False
    assert told["ssl_certfile"] == (str(files["certificate"]) if encrypted else None)
