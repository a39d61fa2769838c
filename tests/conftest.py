"""What every test stands on: no telemetry, one thread, and a home folder of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis

# Before anything imports mlflow, prefect or torch. Tests that make a home of their own override
# MODKERNEL_HOME; this one is for those that forget, so that no test touches the user's.
_SCRATCH = tempfile.TemporaryDirectory(prefix="modkernel-tests-")
os.environ.update(
    {
        "MODKERNEL_HOME": str(Path(_SCRATCH.name) / "home"),
        "PREFECT_HOME": str(Path(_SCRATCH.name) / "prefect"),
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
)

hypothesis.settings.register_profile("modkernel", deadline=None)
hypothesis.settings.load_profile("modkernel")
