"""`mlflow server` with logins, whose administrator has the password that is configured now.

MLflow reads MLFLOW_AUTH_ADMIN_PASSWORD when it makes the account and never again; here another
password takes effect at the next start, so that the account is where the configuration says.

    python -m modkernel.registry.tracking.auth_server --host ... (options of `mlflow server`)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONFIGURATION = "MLFLOW_AUTH_CONFIG_PATH"


def configuration(database_url: str) -> str:
    """What MLflow's file of its logins says.

    Everybody with an account reads, writes and promotes; what somebody else made is deleted by
    administrators alone. A password that was right is believed for a minute: to check one takes
    a tenth of a second of CPU, at every request.

    Args:
        database_url: of the accounts.
    """
    return (
        "[mlflow]\n"
        "default_permission = EDIT\n"
        f"database_uri = {database_url}\n"
        "auth_cache_ttl_seconds = 60\n"
    )


def main() -> None:
    """Bring the administrator's account up to date, then run the server."""
    # uvicorn is looked for on the path, as it is in an activated environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    from mlflow.cli import cli
    from mlflow.server.auth import auth_config, bootstrap_admin_user, store

    bootstrap_admin_user()
    name, password = auth_config.admin_username, auth_config.admin_password
    if name and password and not store.authenticate_user(name, password):
        store.update_user(name, password=password, is_admin=True)
    cli(["server", "--app-name", "basic-auth", *sys.argv[1:]])


if __name__ == "__main__":
    main()
