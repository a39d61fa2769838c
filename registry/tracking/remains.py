"""What is deleted in MLflow, and removing it for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlflow import MlflowClient
from mlflow.artifacts import list_artifacts
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from modkernel.registry.records import Identity
from modkernel.registry.settings import Settings
from modkernel.registry.tracking.errors import ABSENT, UNFIT, speaks_with_mlflow
from modkernel.registry.tracking.experiments import DELETED
from modkernel.registry.tracking.recipe_runs import own_runs

Kind = Literal["model", "run"]
HARD_DELETE = {"model": "_hard_delete_logged_model", "run": "_hard_delete_run"}
"""Methods of MLflow's own stores; a client of a server has none."""


@dataclass(frozen=True)
class Remains:
    """Deleted models and runs. Every method raises StoreError where MLflow does not answer."""

    client: MlflowClient
    settings: Settings
    registry: Identity
    """Whose they are."""

    @speaks_with_mlflow
    def place_of(self, kind: Kind, identity: str) -> tuple[str, int] | None:
        """Where a model's or run's files are, and their bytes; none where MLflow has no such."""
        try:
            uri = (
                self.client.get_logged_model(identity).artifact_location
                if kind == "model"
                else self.client.get_run(identity).info.artifact_uri
            )
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return None
        return str(uri), self.size(str(uri))

    @speaks_with_mlflow
    def delete(self, kind: Kind, identity: str) -> None:
        """Delete a model or a run in MLflow, as a person does on its page; a second time, too."""
        with _absent_is_well():
            if kind == "model":
                self.client.delete_logged_model(identity)
            elif self.client.get_run(identity).info.lifecycle_stage != DELETED:
                self.client.delete_run(identity)

    @speaks_with_mlflow
    def is_deleted(self, kind: Kind, identity: str) -> bool:
        """Whether MLflow holds a model or a run for deleted, or has none."""
        try:
            if kind == "model":
                self.client.get_logged_model(identity)  # It does not know those that are deleted.
                return False
            return bool(self.client.get_run(identity).info.lifecycle_stage == DELETED)
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return True

    @speaks_with_mlflow
    def runs(self) -> tuple[Run, ...]:
        """Our runs that are deleted, of all experiments that are not."""
        return own_runs(self.client, self.registry, view=ViewType.DELETED_ONLY)

    @speaks_with_mlflow
    def remove(self, kind: Kind, identity: str, uri: str) -> None:
        """Remove a deleted model or run for good, with its files.

        Where MLflow is a server, which has no call for it, the files alone: the rest is a row that
        'mlflow gc' removes where the server runs.
        """
        with _absent_is_well(), contextlib.suppress(FileNotFoundError):
            get_artifact_repository(uri, tracking_uri=self.client.tracking_uri).delete_artifacts()
        # As 'mlflow gc' does; called by its name it would take all that is deleted, of others too.
        remove = getattr(self.client._tracking_client.store, HARD_DELETE[kind], None)
        if remove is not None:
            with _absent_is_well():
                remove(identity)

    @speaks_with_mlflow
    def delete_name_without_versions(self, name: str) -> None:
        """Delete a registered model that has no version left."""
        with _absent_is_well():
            if not self.client.search_model_versions(f"name = '{name}'", max_results=1):
                self.client.delete_registered_model(name)

    def size(self, uri: str) -> int:
        """Bytes of all files in a folder of MLflow's store."""
        try:
            found = list_artifacts(artifact_uri=uri, tracking_uri=self.client.tracking_uri)
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", UNFIT) in (ABSENT, UNFIT):
                return 0
            raise
        return sum(
            self.size(f"{uri}/{file.path.rsplit('/', 1)[-1]}")
            if file.is_dir
            else (file.file_size or 0)
            for file in found
        )


@contextlib.contextmanager
def _absent_is_well() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code not in (ABSENT, "NOT_FOUND"):
            raise
