"""Who may reach the servers of `up --host`: what is refused before anything starts."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from modkernel.errors import SettingsError
from modkernel.flows.servers import doctor
from modkernel.flows.servers.doctor import examine, upgrade
from modkernel.flows.servers.reach import port_is_free, reach, reach_answers, shares_mlflow
from modkernel.flows.servers.up import check_ports
from modkernel.registry import Settings
from modkernel.registry.tracking.login import admin_login
from tests.flows.helpers.certificates import self_signed
from tests.flows.helpers.processes import free_ports

OTHER = "127.0.0.2"
"""An address of this machine that is not the one of `up` alone."""
OWN = f"http://{OTHER}:5000"


def test_without_a_host_it_is_this_machine_alone(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost"):
        reached = reach(Settings(home=tmp_path), host)
        assert (reached.host, reached.is_shared) == ("127.0.0.1", False)
        assert set(reached.names) == {"127.0.0.1", "localhost", "::1"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, rf"through MLflow's server alone: set MODKERNEL_MLFLOW_URI={OWN} "),
        ({"mlflow_uri": OWN, "tls_key": "key.pem"}, "set MODKERNEL_TLS_CERTIFICATE too"),
        (
            {"mlflow_uri": OWN, "tls_certificate": "no.pem", "tls_key": "no.pem"},
            "cannot be used: .*No such file",
        ),
    ],
)
def test_what_others_could_not_use_is_refused(
    tmp_path: Path, values: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        reach(Settings(home=tmp_path, **values), OTHER)


def test_a_server_that_up_is_to_run_itself_is_not_waited_for(tmp_path: Path) -> None:
    mlflow, prefect = free_ports(2)
    settings = Settings(
        home=tmp_path,
        mlflow_uri=f"http://127.0.0.1:{mlflow}",
        mlflow_port=mlflow,
        prefect_port=prefect,
    )
    with pytest.raises(SettingsError, match=r"no server listens: 'modkernel up --host HOST'"):
        check_ports(settings)
    with socket.create_server(("127.0.0.1", mlflow)):
        check_ports(settings)  # Somebody else's, then.


def test_tls_and_the_address_must_fit(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, OTHER)
    settings = Settings(home=tmp_path, mlflow_uri=OWN, tls_certificate=certificate, tls_key=key)
    with pytest.raises(SettingsError, match=rf"set MODKERNEL_MLFLOW_URI=https://{OTHER}:5000"):
        reach(settings, OTHER)
    reached = reach(settings.model_copy(update={"mlflow_uri": f"https://{OTHER}:5000"}), OTHER)
    assert reached.url(4200) == f"https://{OTHER}:4200"
    with pytest.raises(SettingsError, match="cannot be used"):
        reach(settings.model_copy(update={"tls_key": certificate}), OTHER)


def test_all_addresses_are_named_as_the_other_machines_name_this_one(tmp_path: Path) -> None:
    host = socket.gethostname()
    settings = Settings(home=tmp_path, mlflow_uri=f"http://{host}:5000")
    reached = reach(settings, "0.0.0.0")
    assert (reached.host, reached.url(4200)) == ("0.0.0.0", f"http://{host}:4200")
    assert {host, "localhost"} <= set(reached.names)
    assert "0.0.0.0" not in reached.names
    assert shares_mlflow(settings, reached)


@pytest.mark.parametrize("asks", [True, False])
def test_somebody_elses_mlflow_must_ask_for_a_login(tmp_path: Path, asks: bool) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401 if asks else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer((OTHER, 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings(home=tmp_path, mlflow_uri=f"http://{OTHER}:{server.server_port}")
        if asks:
            assert not shares_mlflow(settings, reach(settings, OTHER))
        else:
            with pytest.raises(SettingsError, match="asks for no login"):
                reach(settings, OTHER)
        server.shutdown()


@pytest.mark.parametrize(
    ("addresses", "reaches"),
    [
        (["127.0.1.1"], False),
        (["127.0.1.1", "::1"], False),
        (["127.0.1.1", "192.0.2.7"], True),
    ],
)
def test_a_name_that_means_loopback_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: list[str], reaches: bool
) -> None:
    """As Debian and Ubuntu write a machine's own name into /etc/hosts."""

    def resolved(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    settings = Settings(home=tmp_path, mlflow_uri="http://box:5000")
    for how in (reach, reach_answers):
        if reaches:
            assert how(settings, "box").name == "box"
        else:
            with pytest.raises(SettingsError, match=r"'box' means 127\.0\.1\.1.*or 0\.0\.0\.0"):
                how(settings, "box")


def test_doctor_tells_a_broken_package_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no libcudnn.so.9\\nmore')")
    monkeypatch.syspath_prepend(broken.parent)
    monkeypatch.delitem(sys.modules, "torch")
    # The other checks would have this process remember that there is no torch.
    monkeypatch.setattr(doctor, "CHECKS", (doctor._devices, doctor._disk))
    found = {each.check: each for each in examine(Settings(home=tmp_path / "home"))}
    assert found["devices"].found == "ImportError: no libcudnn.so.9"
    assert "install the packages again" in (found["devices"].remedy or "")
    assert found["disk"].status != "wrong"


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Cannot listen on '192\.0\.2\.1'"):
        port_is_free(1, "192.0.2.1")


def test_the_database_of_the_homes_own_mlflow_server_is_upgraded_with_the_home(
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind((OTHER, 0))
        port = probe.getsockname()[1]
    settings = Settings(
        home=tmp_path / "home", mlflow_uri=f"http://{OTHER}:{port}", mlflow_port=port
    )
    assert "upgrades its own" in upgrade(settings)[1], "the home has run none"
    admin_login(settings)
    assert upgrade(settings)[1].startswith("MLflow's database has the schema")
    assert (settings.home / "mlflow.db").exists()
    (store,) = [one for one in examine(settings) if one.check == "mlflow store"]
    assert store.status == "note", "a server that is down for an upgrade is not waited for"
    assert "does not run" in store.found
