"""Where the servers of `modkernel up` listen, and under which names and with what they are asked.

Without a host that is this machine alone. With one, other machines reach both servers: then both
ask for a login, and answer to this machine's names alone.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modkernel.errors import SettingsError
from modkernel.registry import Settings
from modkernel.registry.settings import without_secrets
from modkernel.registry.tracking.login import TRUST, runs_here, signs_itself
from modkernel.system.proxies import LOOPBACK

HOST = "127.0.0.1"
ANY = ("0.0.0.0", "::")
"""What is listened on to be reached at every address of this machine."""
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
PREFECT_TRUST = "PREFECT_API_SSL_CERT_FILE"
"""Where Prefect's client reads which certificate to trust."""


@dataclass(frozen=True)
class Reach:
    """How the servers are reached."""

    host: str = HOST
    """That they listen on."""
    name: str = HOST
    """Under which their links name this machine."""
    names: tuple[str, ...] = LOOPBACK
    """Host names that they answer to."""
    certificate: Path | None = None
    key: Path | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other machines are to reach them."""
        return self.host != HOST

    def url(self, port: int, name: str | None = None) -> str:
        """Address of a server."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{_in_url(name or self.name)}:{port}"

    def urls(self, port: int) -> tuple[str, ...]:
        """All addresses of a server: where a page of its own may come from."""
        return tuple(self.url(port, name) for name in self.names)


def reach(settings: Settings, host: str = HOST) -> Reach:
    """How the servers of this home are to be reached.

    Args:
        settings: of the home.
        host: name or address of this machine to listen on; 0.0.0.0 is all of them.

    Raises:
        SettingsError: others would reach a server without a login, or would not reach it or what
            is stored; or the certificate cannot be used.
    """
    if host in LOOPBACK:
        return Reach()
    _check_reachable(host)
    certificate = _certificate(settings)
    name = socket.gethostname() if host in ANY else host
    scheme = "http" if certificate is None else "https"
    own = f"{scheme}://{_in_url(name)}:{settings.mlflow_port}"
    if not settings.mlflow_uri.startswith(("http://", "https://")):
        raise SettingsError(
            "Other machines reach what is stored through MLflow's server alone: set "
            f"MODKERNEL_MLFLOW_URI={own} for all commands of this home (as mlflow_uri in "
            f"{settings.home / 'settings.toml'}, say), as on the other machines."
        )
    if runs_here(settings):
        if urlsplit(settings.mlflow_uri).scheme != scheme:
            raise SettingsError(
                f"MODKERNEL_MLFLOW_URI begins with {urlsplit(settings.mlflow_uri).scheme}, and "
                f"with{'out' if certificate is None else ''} MODKERNEL_TLS_CERTIFICATE the server "
                f"speaks {scheme}: set MODKERNEL_MLFLOW_URI={own}."
            )
        name = urlsplit(settings.mlflow_uri).hostname or name
    elif not _asks_for_login(settings.mlflow_uri):
        raise SettingsError(
            f"The MLflow server at {without_secrets(settings.mlflow_uri)} asks for no login, so "
            "whoever reaches it can change what is stored: have it ask for one (mlflow server "
            f"--app-name basic-auth), or have 'up' run it: MODKERNEL_MLFLOW_URI={own}."
        )
    return _named(host, name, certificate, settings)


def reach_answers(settings: Settings, host: str) -> Reach:
    """How a server is to be reached that has no login, since it only answers.

    Args:
        settings: of the home.
        host: as of `reach`.

    Raises:
        SettingsError: others would not reach it, or the certificate cannot be used.
    """
    if host in LOOPBACK:
        return Reach()
    _check_reachable(host)
    name = socket.gethostname() if host in ANY else host
    return _named(host, name, _certificate(settings), settings)


def _check_reachable(host: str) -> None:
    """Refuse a name that means this machine alone here, as of Debian's line `127.0.1.1 NAME`.

    From this machine all would seem well, and from others every connection be refused.
    """
    try:
        ipaddress.ip_address(host)
        return  # An address says by itself who reaches it.
    except ValueError:
        pass
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
    except OSError:
        return  # No name of this machine, which is told when it is listened on.
    if all(ipaddress.ip_address(address).is_loopback for address in found):
        raise SettingsError(
            f"'{host}' means {', '.join(found)} on this machine (by its /etc/hosts, most likely), "
            "which no other machine reaches: give this machine's address in the network, or "
            "0.0.0.0 for all of its addresses."
        )


def _named(host: str, name: str, certificate: Path | None, settings: Settings) -> Reach:
    ours = (name, *(() if host in ANY else (host,)), socket.gethostname(), socket.getfqdn())
    names = tuple(dict.fromkeys([*ours, *LOOPBACK]))
    key = None if certificate is None else settings.tls_key
    return Reach(host, name, names, certificate, key)


def shares_mlflow(settings: Settings, reached: Reach) -> bool:
    """Whether `up` runs MLflow's server for other machines."""
    return reached.is_shared and runs_here(settings)


def port_is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen on the port.

    Raises:
        SettingsError: the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(
                f"Cannot listen on '{host}', which is no name or address of this machine "
                f"({error}): give one of its own, or 0.0.0.0 for all of them."
            ) from None
        return False
    return True


def answers(url: str, certificate: Path | str | None = None) -> bool:
    """Whether one of this machine's servers answers."""
    try:
        with direct(certificate).open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def direct(certificate: Path | str | None = None) -> urllib.request.OpenerDirector:
    """Opens URLs of this machine's servers, past any proxy, which would see the password.

    Args:
        certificate: that the servers show, if they do: it is known, whoever signed it.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if certificate:
        context = ssl.create_default_context(cafile=str(certificate))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def trust(certificate: Path | str | None) -> dict[str, str]:
    """What has this machine's clients trust a certificate that nobody else signed."""
    if not certificate or not signs_itself(Path(certificate)):
        return {}
    return {PREFECT_TRUST: str(certificate), TRUST: str(certificate)}


def _certificate(settings: Settings) -> Path | None:
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "MODKERNEL_TLS_CERTIFICATE" if certificate is None else "MODKERNEL_TLS_KEY"
        raise SettingsError(f"TLS takes a certificate and its key: set {missing} too.")
    try:
        # Without a password, since a server that starts again by itself cannot ask for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"The certificate {certificate} and the key {key} cannot be used: {error}. Name PEM "
            "files that belong together, the key without a passphrase, in "
            "MODKERNEL_TLS_CERTIFICATE and MODKERNEL_TLS_KEY."
        ) from None
    return certificate


def _asks_for_login(url: str) -> bool:
    """Whether an MLflow server refuses who does not log in; so does one that does not answer."""
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    try:
        urllib.request.urlopen(bare + SEARCH, timeout=10).close()
    except (OSError, ValueError):
        return True
    return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
