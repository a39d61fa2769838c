"""Prefect flows, and the command line that runs them."""

from __future__ import annotations

import os
import sys

from modkernel.system.proxies import ask_directly

SURROUNDINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A first start makes its database, which takes 12 to 19 s on two cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    # How soon it is seen that a run's process is gone; Prefect's shortest, by default 180.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
"""What Prefect finds unless the user has set it."""

# At import, since Prefect reads it, and reports home, as soon as it is imported itself: a command
# or a notebook that imports a flow is too late afterwards. What the user has set stays.
for _name, _value in SURROUNDINGS.items():
    os.environ.setdefault(_name, _value)
ask_directly(os.environ)
if "prefect.context" in sys.modules:
    # Prefect came first, as in a pod of Kubernetes, and has read its settings already: by those a
    # run would be heard of so seldom that it is taken for dead.
    sys.modules["prefect.context"].refresh_global_settings_context()
