"""Servers of this machine are asked directly, whatever proxy is set."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from importlib.util import find_spec

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which this machine's own servers are asked."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def ask_directly(environment: MutableMapping[str, str], more: Iterable[str] = ()) -> None:
    """Set what keeps a process, and all that it starts, from a proxy to this machine's servers.

    A proxy would see their password, and few answer for somebody else's loopback address. Where
    the package socksio is missing, a SOCKS proxy is taken out: httpx, with which Prefect asks its
    server, would build a way through it first, whatever host is asked, and fail.

    Args:
        environment: of the process, which is changed.
        more: names under which this machine's servers are asked.
    """
    names = ("NO_PROXY", "no_proxy")
    set_before = [host.strip() for name in names for host in environment.get(name, "").split(",")]
    hosts = list(dict.fromkeys([*filter(None, set_before), *LOOPBACK, *more]))
    for name in names:
        # Beside other names, '*' stands for nothing.
        environment[name] = "*" if "*" in hosts else ",".join(hosts)
    if find_spec("socksio") is None:
        for name in [name for name in environment if name.lower() in _PROXIES]:
            if environment[name].lower().startswith("socks"):
                del environment[name]
