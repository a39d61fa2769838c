"""The login of the MLflow server that this home runs for others, and how this home logs in there.

The accounts are MLflow's own ('basic-auth'): the home has an administrator's, people get more of
them in MLflow's page. Everybody else's server is logged in to with what MLflow's client reads
(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD), which the user sets.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from modkernel.registry.settings import Settings
from modkernel.registry.tracking.auth_server import CONFIGURATION, configuration
from modkernel.system.files import replace_file
from modkernel.system.passwords import kept_password
from modkernel.system.proxies import ask_directly

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
"""Where MLflow's client reads its login."""
ADMIN, ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"
"""Where MLflow's server reads that of its administrator; a user's own are used as they are."""
ADMIN_NAME = "modkernel"
TRUST = "MLFLOW_TRACKING_SERVER_CERT_PATH"
"""Where MLflow's client reads which certificate to trust."""


def runs_here(settings: Settings) -> bool:
    """Whether the tracking URI is a server that `modkernel up` of this home is to run."""
    uri = urlsplit(settings.mlflow_uri)
    if uri.scheme not in ("http", "https") or uri.port != settings.mlflow_port:
        return False
    return is_here(uri.hostname or "")


def is_here(host: str) -> bool:
    """Whether a name or address is one of this machine."""
    with suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
            return True
    return False


def admin_login(settings: Settings) -> tuple[str, str]:
    """Name and password of the administrator of this home's MLflow server.

    They are what MLFLOW_AUTH_ADMIN_USERNAME and MLFLOW_AUTH_ADMIN_PASSWORD say; else 'modkernel',
    and the content of a file in the home that its owner alone may read, made at the first call.

    Raises:
        SettingsError: the home cannot be written to, or the file is unreadable or empty.
    """
    name = os.environ.get(ADMIN) or ADMIN_NAME
    if own := os.environ.get(ADMIN_PASSWORD):
        return name, own
    path = password_file(settings)
    if not path.exists():
        settings.ensure_home()
    return name, kept_password(path, "MLflow's")


def password_file(settings: Settings) -> Path:
    """Where the password is kept."""
    return settings.home / "mlflow-password"


def log_in(settings: Settings) -> None:
    """Have MLflow's client of this process log in to the server that this home runs, if it does.

    No other server is sent the home's password. What the user set stays.
    """
    known = password_file(settings).exists() or ADMIN_PASSWORD in os.environ
    if not known or not runs_here(settings):
        return
    ask_directly(os.environ, [urlsplit(settings.mlflow_uri).hostname or ""])
    if PASSWORD not in os.environ:
        os.environ[USER], os.environ[PASSWORD] = admin_login(settings)
    if settings.tls_certificate is not None and signs_itself(settings.tls_certificate):
        os.environ.setdefault(TRUST, str(settings.tls_certificate))


def server_environment(settings: Settings) -> dict[str, str]:
    """What MLflow's server with logins reads: the administrator, and where the accounts are.

    Raises:
        SettingsError: the home cannot be written to.
    """
    name, password = admin_login(settings)
    file, accounts = settings.home / "mlflow-auth.ini", settings.home / "mlflow-auth.db"
    replace_file(file, configuration(f"sqlite:///{accounts}").encode())
    return {
        ADMIN: name,
        ADMIN_PASSWORD: password,
        CONFIGURATION: str(file),
        # It signs the form that makes accounts: a page that is open at a restart is loaded again.
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }


def signs_itself(certificate: Path) -> bool:
    """Whether nobody but those who were given a certificate trusts it."""
    from cryptography import x509

    with suppress(OSError, ValueError):
        first = x509.load_pem_x509_certificate(certificate.read_bytes())
        return first.issuer == first.subject
    return False
