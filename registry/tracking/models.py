"""MLflow's models, their versions and the aliases that people set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from modkernel.errors import NotFoundError, SpecError
from modkernel.registry.records import (
    Identity,
    ModuleRecord,
    NetworkRecord,
    VersionRecord,
    version_number,
)
from modkernel.registry.settings import Settings
from modkernel.registry.tracking.aliases import Alias, Target, stored_aliases
from modkernel.registry.tracking.errors import ABSENT, UNFIT, first_line, speaks_with_mlflow
from modkernel.registry.tracking.experiments import Doomed, doomed_experiment, place_of
from modkernel.registry.tracking.fields import RECIPE_TAG, metrics_now

MODULE_TAG = ModuleRecord.tag
"""Tag of every model and version of a module."""
AWAITS_ALIASES = "awaits_aliases"
"""Tag of a version that was registered again, until it has the aliases of the one before."""
PAGE_MODELS = 100
"""Registered models that one answer of MLflow holds."""
FEW_NAMES = 100
"""Registered models that a server is asked for one by one."""


@dataclass(frozen=True)
class Models:
    """Models as MLflow has them. Every method raises StoreError where it does not answer."""

    client: MlflowClient
    settings: Settings
    registry: Identity
    """Whose they are."""

    @speaks_with_mlflow
    def logged(self, record: VersionRecord) -> tuple[str, ...]:
        """Ids of the MLflow models that were made for it, finished or not, beside its run.

        The one that it has, if that is there, comes first.
        """
        experiment = self._experiment(record)
        if experiment is None:
            return ()
        models = self.client.search_logged_models([experiment], _tagged(record))
        found = (
            str(one.model_id)
            for one in models
            if self.registry.made(one.tags) or one.model_id == record.model_id
        )
        return tuple(sorted(found, key=lambda one: one != record.model_id))

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
        record: VersionRecord,
        kind: str,
        save: Callable[[str, Model], None],
        metrics: Mapping[str, Any],
    ) -> str:
        """Write a module or a network into a new MLflow model beside its run; gives its id.

        As `mlflow.models.Model.log` does, which asks for every metric of the run by itself.

        Args:
            record: The module or network, which has a run.
            kind: Its kind, for people.
            save: Writes the model's files, given their folder and MLflow's metadata.
            metrics: What it reached: the run and the model show it.
        """
        # It knows the tracking URI of the process only.
        mlflow.set_tracking_uri(self.settings.mlflow_uri)
        client, run_id = self.client, record.run_id
        assert run_id is not None
        made = mlflow.initialize_logged_model(
            name=record.name.replace(".", "-"),
            source_run_id=run_id,
            experiment_id=self._experiment(record),
            tags={record.tag: record.id, Identity.tag: self.registry.id, "kind": kind},
        )
        model_id = str(made.model_id)
        facts = Model(
            artifact_path=made.artifact_location,
            model_uuid=model_id,
            run_id=run_id,
            model_id=model_id,
        )
        try:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
            client.log_batch(run_id, metrics=metrics_now(metrics, model_id=model_id))
            with tempfile.TemporaryDirectory() as folder:
                save(folder, facts)
                client.log_model_artifacts(model_id, folder)
        except Exception:
            client.finalize_logged_model(model_id, "FAILED")
            raise
        client.finalize_logged_model(model_id, "READY")
        return model_id

    @speaks_with_mlflow
    def log_file(self, model_id: str, file: str, folder: str) -> None:
        """Copy a file into a folder of an MLflow model."""
        self.client.log_model_artifact(model_id, file, folder)

    @speaks_with_mlflow
    def versions(self, record: VersionRecord) -> tuple[ModelVersion, ...]:
        """The versions of the registered model that are tagged with its id."""
        condition = f"name = '{record.name}' and {_tagged(record)}"
        found = self.client.search_model_versions(condition)
        return tuple(
            one for one in found if self.registry.made(one.tags) or one.source == record.source
        )

    def replace_versions(self, old: Iterable[ModelVersion], new: ModelVersion) -> None:
        """Give the aliases of versions to another one of the same name, and delete them."""
        for version in old:
            if version.version != new.version:
                with suppress(NotFoundError):  # Somebody else deletes it, too.
                    self._replace_version(version, new.version)

    @speaks_with_mlflow
    def add_version(
        self, record: VersionRecord, tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        """Register its MLflow model as a version of its name, which is made if there is none.

        Args:
            record: The module or network, which has a run and an MLflow model.
            tags: What it is found by, beside its id.
            description: Its card, of which the first line is the registered model's.
        """
        try:
            self.client.create_registered_model(
                record.name,
                tags={key: tags[key] for key in tags if key != RECIPE_TAG},
                description=description.partition("\n")[0],
            )
            is_new = True
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            is_new = False
        again = {} if record.version is None else {AWAITS_ALIASES: "yes"}
        made = self.client.create_model_version(
            record.name,
            source=record.source,
            run_id=record.run_id,
            model_id=record.model_id,
            tags={record.tag: record.id, Identity.tag: self.registry.id, **again, **tags},
            description=description,
        )
        if not is_new or int(made.version) > 1:  # Else the name was made with these tags.
            self._tell_name(made, tags)
        return made

    @speaks_with_mlflow
    def describe(
        self, record: VersionRecord, tags: Mapping[str, str], description: str | None = None
    ) -> None:
        """Bring a version's card and tags to what they are now; what is so already stays.

        The tags come last: where they are right, the card is.

        Raises:
            NotFoundError: MLflow has no such version.
        """
        number = str(record.version)
        with _none_where_unfit():
            found = self.client.get_model_version(record.name, number)
        if description is not None and found.description != description:
            self.client.update_model_version(record.name, number, description)
        now = {Identity.tag: self.registry.id, **tags}
        changed = {key: value for key, value in now.items() if found.tags.get(key) != value}
        if changed:
            self._tell_name(found, changed)
        for key, value in changed.items():
            self.client.set_model_version_tag(record.name, number, key, value)

    @speaks_with_mlflow
    def _replace_version(self, old: ModelVersion, new: str) -> None:
        # What a search finds does not name its aliases.
        for alias in self.client.get_model_version(old.name, old.version).aliases:
            self.client.set_registered_model_alias(old.name, alias, new)
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
        if version.isdecimal() and version_number(version) is None:
            raise NotFoundError(f"MLflow has no version {version[:20]}: its numbers are smaller.")
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
    def all_aliases(self, names: Collection[str]) -> dict[Alias, Target]:
        """As `aliases_of`, for all of a registry's names: one question where its database is known.

        A server has other people's models, too, perhaps thousands: few names are asked for alone.
        """
        found = stored_aliases(self.client, self.settings, self.registry)
        if found is None and len(names) <= FEW_NAMES:
            return self.aliases_of(names)
        found = self._listed_aliases() if found is None else found
        return {key: target for key, target in found.items() if key[0] in names}

    def _listed_aliases(self) -> dict[Alias, Target]:
        found: dict[Alias, Target] = {}
        token = None
        while True:
            page = self.client.search_registered_models(max_results=PAGE_MODELS, page_token=token)
            for model in page:
                tags = {int(one.version): one.tags for one in model.latest_versions}
                for alias, version in _numbers(model.aliases).items():
                    known = tags.get(version)
                    target = (
                        self.stored_as(model.name, version) if known is None else self._own(known)
                    )
                    found[model.name, alias] = version, target
            token = page.token
            if not token:
                return found

    def aliases_of(self, names: Collection[str]) -> dict[Alias, Target]:
        """What each alias of some registered models points to; of names that there are not, none.

        A server is asked for each of them: see `all_aliases` for thousands.
        """
        found: dict[Alias, Target] = {}
        for name in names:
            with suppress(NotFoundError):
                for alias, version in self.aliases(name).items():
                    found[name, alias] = version, self.stored_as(name, version)
        return found

    def stored_as(self, name: str, version: int) -> str | None:
        """Id of the module, or of the network, that a version is; none where it is none of ours.

        That of another registry is none, also where it is of the same id.
        """
        try:
            return self._own(self.version(name, str(version)).tags)
        except NotFoundError:
            return None

    def is_complete(self, name: str, version: int, stored_id: str) -> bool:
        """Whether a version is that module or network, and has all the aliases that it had."""
        with suppress(NotFoundError):
            tags = self.version(name, str(version)).tags
            return self._own(tags) == stored_id and AWAITS_ALIASES not in tags
        return False

    @speaks_with_mlflow
    def aliases_are_set(self, version: ModelVersion) -> None:
        """Note that a version that was registered again has the aliases of the one before."""
        self.client.delete_model_version_tag(version.name, version.version, AWAITS_ALIASES)

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

    def _tell_name(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Give a registered model the tags of its newest version: MLflow's page searches those."""
        name = self.client.get_registered_model(version.name)
        if any(int(one.version) > int(version.version) for one in name.latest_versions):
            return
        for key, value in tags.items():
            if key not in (RECIPE_TAG, Identity.tag) and name.tags.get(key) != value:
                self.client.set_registered_model_tag(version.name, key, value)

    def _own(self, tags: Mapping[str, str]) -> str | None:
        found = tags.get(ModuleRecord.tag) or tags.get(NetworkRecord.tag)
        return found if self.registry.made(tags) else None

    def _experiment(self, record: VersionRecord) -> str | None:
        """The experiment of its run, where its model is; none without a run."""
        if record.run_id is None:
            return None
        try:
            return place_of(self.client, record.run_id).experiment_id
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return None


@contextmanager
def _none_where_unfit() -> Iterator[None]:
    # MLflow's answer for an alias that nobody set, and for a version that is no number.
    try:
        yield
    except MlflowException as error:
        if error.error_code != UNFIT:
            raise
        raise NotFoundError(f"MLflow has no such thing: {first_line(error)}.") from error


def fit_version(record: VersionRecord, versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """Of a record's versions the one that has its MLflow model: of its number, or the least.

    None where there is none.
    """
    # What a search finds does not name its model_id.
    fit = [one for one in versions if one.source == record.source]
    return min(
        fit, key=lambda one: (int(one.version) != record.version, int(one.version)), default=None
    )


def _tagged(record: VersionRecord) -> str:
    return f"tags.{record.tag} = '{record.id}'"


def _numbers(aliases: Mapping[str, str]) -> dict[str, int]:
    return {alias: int(version) for alias, version in aliases.items()}
