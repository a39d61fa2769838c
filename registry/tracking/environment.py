"""MLflow's own surroundings, read when it is first imported: no telemetry, no chatter, no proxy."""

from __future__ import annotations

import os

from modkernel.system.proxies import ask_directly

SURROUNDINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow looks for a commit to note; a machine without git is no news.
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
}
"""What MLflow finds here, and in every process that is started from here, unless it is set."""

for _name, _value in SURROUNDINGS.items():
    os.environ.setdefault(_name, _value)
ask_directly(os.environ)
