"""MLflow's models, their versions and the aliases that people set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from modkernel.errors import NotFoundError, SpecError
from modkernel.modules.stored import StoredModule
from modkernel.registry.records import ModuleRecord
from modkernel.registry.settings import Settings
from modkernel.registry.tracking.cards import module_card, sentence
from modkernel.registry.tracking.errors import UNFIT, first_line, speaks_with_mlflow
from modkernel.registry.tracking.runs import (
    RECIPE_TAG,
    Doomed,
    doomed_experiment,
    experiment,
    figures_of,
    network_of,
)
from modkernel.training.report import TrainReport

MODULE_TAG = "module_id"
"""Tag of every model and version of ours."""
PAGE_MODELS = 100
"""Registered models that one answer of MLflow holds."""


@dataclass(frozen=True)
class Models:
    """Models as MLflow has them. Every method raises StoreError where it does not answer."""

    client: MlflowClient
    settings: Settings

    @speaks_with_mlflow
    def logged(self, record: ModuleRecord) -> tuple[str, ...]:
        """Ids of the MLflow models that were made for a module, finished or not."""
        found = self.client.search_logged_models([self._experiment(record)], _tagged(record))
        return tuple(str(model.model_id) for model in found)

    @speaks_with_mlflow
    def doomed(self, model_id: str) -> Doomed | None:
        """The experiment that MLflow keeps a model in, if it is deleted.

        Raises:
            NotFoundError: there is no such model.
        """
        model = self.client.get_logged_model(model_id)
        return doomed_experiment(self.client, model.experiment_id)

    @speaks_with_mlflow
    def log(
        self,
        record: ModuleRecord,
        stored: StoredModule,
        chain: Sequence[ModuleRecord],
        flavor: ModuleType,
        written: Callable[[Mapping[str, str]], None],
    ) -> str:
        """Write a module into a new MLflow model, whose id is returned.

        Args:
            record: The module.
            stored: Its files.
            chain: The modules it stands on, first to last, without itself.
            flavor: Writes the model's files.
            written: Called with their sha256 by name, before they are in MLflow's store.
        """
        # These two know the tracking URI of the process only; and Model.log alone would put the
        # model into MLflow's default experiment.
        mlflow.set_tracking_uri(self.settings.mlflow_uri)
        model = mlflow.initialize_logged_model(
            name=record.name.replace(".", "-"),
            source_run_id=record.run_id,
            experiment_id=self._experiment(record),
            tags={MODULE_TAG: record.id, "kind": record.kind},
        )
        Model.log(
            artifact_path=None,
            name=model.name,
            flavor=flavor,
            run_id=record.run_id,
            model_id=model.model_id,
            stored=stored,
            chain=chain,
            written=written,
        )
        return str(model.model_id)

    @speaks_with_mlflow
    def log_file(self, model_id: str, file: str, folder: str) -> None:
        """Copy a file into a folder of an MLflow model."""
        self.client.log_model_artifact(model_id, file, folder)

    @speaks_with_mlflow
    def versions(self, record: ModuleRecord) -> tuple[ModelVersion, ...]:
        """The versions of the registered model that are tagged with a module's id."""
        return tuple(
            self.client.search_model_versions(f"name = '{record.name}' and {_tagged(record)}")
        )

    @speaks_with_mlflow
    def add_version(
        self, record: ModuleRecord, chain: Sequence[ModuleRecord], report: TrainReport
    ) -> ModelVersion:
        """Register a module's MLflow model as a version of its name, with its card."""
        assert record.run_id is not None
        self._ensure_name(record)
        return self.client.create_model_version(
            record.name,
            source=source_of(record),
            run_id=record.run_id,
            model_id=record.model_id,
            tags={
                MODULE_TAG: record.id,
                RECIPE_TAG: record.recipe_digest,
                "kind": record.kind,
                "dataset": record.spec.dataset.name,
                "upstream": record.spec.interface.upstream,
            },
            description=module_card(record, chain, report, figures_of(self.client, record.run_id)),
        )

    @speaks_with_mlflow
    def replace_version(self, old: ModelVersion, new: ModelVersion) -> None:
        """Give the aliases of a version to another one of the same name, and delete it."""
        # What a search finds does not name its aliases.
        for alias in self.client.get_model_version(old.name, old.version).aliases:
            self.client.set_registered_model_alias(old.name, alias, new.version)
        self.client.delete_model_version(old.name, old.version)

    @speaks_with_mlflow
    def delete_version(self, version: ModelVersion) -> None:
        """Delete a version."""
        self.client.delete_model_version(version.name, version.version)

    @speaks_with_mlflow
    def version(self, name: str, version: str) -> ModelVersion:
        """The version of a number.

        Raises:
            NotFoundError: there is none.
        """
        with _none_where_unfit():
            return self.client.get_model_version(name, version)

    @speaks_with_mlflow
    def version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """The version that an alias points to.

        Raises:
            NotFoundError: there is no such alias, or no model of the name.
        """
        with _none_where_unfit():
            return self.client.get_model_version_by_alias(name, alias)

    @speaks_with_mlflow
    def aliases(self, name: str) -> dict[str, int]:
        """Versions by the aliases of a registered model.

        Raises:
            NotFoundError: there is no model of the name.
        """
        with _none_where_unfit():
            return _numbers(self.client.get_registered_model(name).aliases)

    @speaks_with_mlflow
    def all_aliases(self) -> dict[str, dict[str, int]]:
        """Versions by alias, of every registered model by its name."""
        found: dict[str, dict[str, int]] = {}
        token = None
        while True:
            page = self.client.search_registered_models(max_results=PAGE_MODELS, page_token=token)
            found |= {model.name: _numbers(model.aliases) for model in page}
            token = page.token
            if not token:
                return found

    @speaks_with_mlflow
    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias of a registered model to a version.

        Raises:
            SpecError: MLflow does not take the alias.
        """
        try:
            self.client.set_registered_model_alias(name, alias, str(version))
        except MlflowException as error:
            if error.error_code != UNFIT:
                raise
            raise SpecError(
                f"MLflow does not take '{alias}' as an alias: use letters, digits, '_' and '-', "
                "but not 'latest' or 'v1'."
            ) from error

    @speaks_with_mlflow
    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias of a registered model, if it has it."""
        self.client.delete_registered_model_alias(name, alias)

    def _experiment(self, record: ModuleRecord) -> str:
        return experiment(self.client, self.settings, network_of(record.name))

    def _ensure_name(self, record: ModuleRecord) -> None:
        try:
            self.client.create_registered_model(
                record.name,
                tags={"network": network_of(record.name), "kind": record.kind},
                description=sentence(record.name, record.spec),
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def source_of(record: ModuleRecord) -> str:
    """What a version of a module's MLflow model names as its source."""
    return f"models:/{record.model_id}"


@contextmanager
def _none_where_unfit() -> Iterator[None]:
    # MLflow's answer for an alias that nobody set, and for a version that is no number.
    try:
        yield
    except MlflowException as error:
        if error.error_code != UNFIT:
            raise
        raise NotFoundError(f"MLflow has no such thing: {first_line(error)}.") from error


def _tagged(record: ModuleRecord) -> str:
    return f"tags.{MODULE_TAG} = '{record.id}'"


def _numbers(aliases: Mapping[str, str]) -> dict[str, int]:
    return {alias: int(version) for alias, version in aliases.items()}
