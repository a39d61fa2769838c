#!/usr/bin/env python
"""Whether a container does what it is there for, for its health check.

check.py mlflow|prefect    the server of MODKERNEL_MLFLOW_URI or PREFECT_API_URL answers our login
check.py POOL ...          this machine asked Prefect for runs of each pool lately
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

LATELY = timedelta(seconds=120)
"""Workers say every 30 s that they are there."""


def ask(url: str, login: str, trusted: str | None, body: dict[str, Any] | None = None) -> Any:
    """What a server answers to whoever logs in."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    secret = base64.b64encode(login.encode()).decode()
    request.add_unredirected_header("Authorization", f"Basic {secret}")
    context = ssl.create_default_context(cafile=trusted)
    with urllib.request.urlopen(request, timeout=5, context=context) as answer:
        return json.load(answer)


def ask_prefect(path: str, body: dict[str, Any] | None = None) -> Any:
    """What Prefect's server answers."""
    here = os.environ
    url = here["PREFECT_API_URL"] + path
    trusted = here.get("PREFECT_API_SSL_CERT_FILE")
    return ask(url, here["PREFECT_API_AUTH_STRING"], trusted, body)


def ask_mlflow() -> Any:
    """What MLflow's server answers."""
    here = os.environ
    login = f"{here['MLFLOW_TRACKING_USERNAME']}:{here['MLFLOW_TRACKING_PASSWORD']}"
    url = here["MODKERNEL_MLFLOW_URI"] + "/api/2.0/mlflow/experiments/search?max_results=1"
    return ask(url, login, here.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))


def check_pool(pool: str) -> None:
    """Exit unless a worker of this machine polled the pool lately."""
    found = ask_prefect(f"/work_pools/{pool}/workers/filter", {})
    ours = [one for one in found if one["name"].startswith(f"{socket.gethostname()} ")]
    heard = [datetime.fromisoformat(one["last_heartbeat_time"]) for one in ours]
    if not heard or datetime.now(UTC) - max(heard) > LATELY:
        sys.exit(f"No worker of this machine asks for runs of pool '{pool}'.")


def main() -> None:
    """Look at what the arguments name; exit with one line on the first that is not as it should."""
    for what in sys.argv[1:]:
        if what == "mlflow":
            ask_mlflow()
        elif what == "prefect":
            ask_prefect("/admin/version")
        else:
            check_pool(what)


try:
    main()
except OSError as error:
    sys.exit(f"{sys.argv[1:]}: {error}")
except KeyError as error:
    sys.exit(f"{error} is not set.")
