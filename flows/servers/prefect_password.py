"""The password of this home's Prefect servers: without one, whoever reaches the port runs code."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from modkernel.registry import Settings
from modkernel.system.passwords import kept_password

OWN_SERVER = "PREFECT_SERVER_API_AUTH_STRING"
"""Where Prefect's server reads its password; a user's own is used as it is."""


def prefect_password(settings: Settings) -> str:
    """What this home's Prefect servers ask for: Prefect's auth string.

    It is what PREFECT_SERVER_API_AUTH_STRING says; else the content of a file in the home that
    its owner alone may read, made at the first call. It reaches Prefect by the environment:
    everyone on the machine can read command lines.

    Raises:
        SettingsError: the home cannot be made or written to, or the file is unreadable or empty.
    """
    if own := os.environ.get(OWN_SERVER):
        return own
    path = password_file(settings)
    if not path.exists():
        settings.ensure_home()
    return kept_password(path, "Prefect's")


def password_file(settings: Settings) -> Path:
    """Where the password is kept."""
    return settings.home / "prefect-password"


def basic_authorization(password: str) -> str:
    """The Authorization header that Prefect's server expects."""
    return f"Basic {base64.b64encode(password.encode()).decode()}"
