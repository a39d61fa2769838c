"""MLflow's experiments: one a data set, or one for all that a project does."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from modkernel.registry.settings import Settings

DELETED = "deleted"
"""Stage of a run or experiment that a person deleted, until `mlflow gc` takes it."""
LONGEST_FOLDER = 200
"""Bytes of a folder's name; file systems take 255."""


@dataclass(frozen=True)
class Doomed:
    """A run or an experiment that is deleted in MLflow: the next `mlflow gc` takes it for good."""

    kind: Literal["experiment", "run"]
    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.id[:12]})"


class Place(NamedTuple):
    """Where MLflow keeps a run, which never changes."""

    experiment_id: str
    artifact_uri: str
    """Folder of its files."""


@lru_cache(maxsize=1000)
def place_of(client: MlflowClient, run_id: str) -> Place:
    """Where a run is kept; MLflow, which reads all of a run to tell it, is asked once.

    Raises:
        MlflowException: there is no such run.
    """
    info = client.get_run(run_id).info
    return Place(info.experiment_id, info.artifact_uri)


def experiment(client: MlflowClient, settings: Settings, dataset: str) -> str:
    """Id of the experiment of a data set, or of the project that the settings name.

    It is made if there is none, and brought back if it was deleted.
    """
    name = settings.experiment or dataset
    found = client.get_experiment_by_name(name)
    if found is None:
        # Fixed at creation: the default would depend on where a server is started later.
        remote = settings.mlflow_uri.startswith("http")
        location = None if remote else (settings.artifact_root / _folder_name(name)).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return experiment(client, settings, dataset)  # another process was faster
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def doomed_experiment(client: MlflowClient, experiment_id: str) -> Doomed | None:
    """An experiment, if it is deleted."""
    found = client.get_experiment(experiment_id)
    if found.lifecycle_stage != DELETED:
        return None
    return Doomed("experiment", experiment_id, found.name)


def _folder_name(experiment: str) -> str:
    """A folder for an experiment's files: an import path has signs that a URL reads otherwise.

    What is too long, or names this folder or the one above, becomes a name of its own.
    """
    name = re.sub(r"[^\w.-]+", "-", experiment)
    if name.strip(".") and len(name.encode()) <= LONGEST_FOLDER:
        return name
    begins = name.encode()[:LONGEST_FOLDER].decode(errors="ignore").strip(".")
    return f"{begins}-{hashlib.sha256(experiment.encode()).hexdigest()[:16]}"
