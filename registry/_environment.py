"""Set before MLflow is first imported: no telemetry, no chatter on a user's terminal."""

from __future__ import annotations

import os

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}
"""Environment of this process and of every server and child that is started from it."""


def keep_quiet() -> None:
    """Apply `QUIET`; a logging level that the user has set stays."""
    level = os.environ.get("MLFLOW_LOGGING_LEVEL", QUIET["MLFLOW_LOGGING_LEVEL"])
    os.environ.update(QUIET | {"MLFLOW_LOGGING_LEVEL": level})


keep_quiet()
