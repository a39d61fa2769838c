"""The two stores behind the registry, opened together."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from mlflow import MlflowClient

from modkernel.features.cache import FeatureCache
from modkernel.registry.settings import Settings
from modkernel.registry.sql.engine import Database


@dataclass(frozen=True)
class Stores:
    """SQL for identity, MLflow for runs and bytes. Safe to share between threads."""

    settings: Settings
    database: Database
    client: MlflowClient


def feature_cache(settings: Settings) -> FeatureCache:
    """The features that are kept on this machine."""
    return FeatureCache(settings.features_dir, settings.feature_cache_bytes)


def this_process() -> str:
    """How this process signs its claims."""
    return f"{socket.gethostname()}:{os.getpid()}"
