"""The two stores behind the registry, opened together."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from mlflow import MlflowClient

from registry.database import Database
from registry.settings import Settings


@dataclass(frozen=True)
class Stores:
    """SQL for identity, MLflow for runs and bytes. Safe to share between threads."""

    settings: Settings
    database: Database
    client: MlflowClient


def this_process() -> str:
    """How this process signs its claims."""
    return f"{socket.gethostname()}:{os.getpid()}"
