"""MLflow runs: parameters, the data set as an input, metrics per epoch, figures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
)

from modkernel.registry.records import Identity
from modkernel.registry.settings import Settings
from modkernel.registry.tracking.artifacts import listed
from modkernel.registry.tracking.errors import ABSENT, speaks_with_mlflow
from modkernel.registry.tracking.experiments import (
    DELETED,
    Doomed,
    doomed_experiment,
    experiment,
    place_of,
)
from modkernel.registry.tracking.fields import (
    RECIPE_TAG,
    dataset_input,
    log_inputs,
    metrics_now,
    metrics_of_epochs,
    parameters_of,
    params_of,
)
from modkernel.registry.tracking.recipe_runs import (
    all_pages,
    create_run,
    find_run,
    own_runs,
    resume_run,
)
from modkernel.spec import DatasetFacts, ModuleSpec, NetworkSpec, Spec

if TYPE_CHECKING:
    from modkernel.data import DatasetInfo

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

FIGURES = "figures"
"""Folder of a run's pictures."""


@dataclass(frozen=True)
class RunningRun:
    """A run of ours that has not ended."""

    id: str
    name: str
    recipe: str
    """Digest of its recipe, on which whoever works in it holds a claim."""


@dataclass(frozen=True)
class Runs:
    """MLflow's runs. Safe to share between threads.

    A run that died before it was finished is resumed by whoever starts one of the same recipe.

    Every method raises StoreError where MLflow does not answer, and NotFoundError, which is one,
    where it has no such run.
    """

    client: MlflowClient
    settings: Settings
    registry: Identity
    """Whose they are."""

    @speaks_with_mlflow
    def start_module(
        self,
        name: str,
        spec: ModuleSpec,
        parent_run_id: str | None = None,
        dataset: DatasetInfo | None = None,
        epochs: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """The run of a module's training.

        Args:
            name: Registered name of the module.
            spec: The module's spec.
            parent_run_id: The network's run.
            dataset: Adds the numbers of examples to the data set input.
            epochs: Progress events of a training that is over, which are logged too.

        Returns:
            The run's id.
        """
        client = self.client
        experiment_id = experiment(client, self.settings, spec.dataset.name)
        tags = {
            "kind": spec.kind,
            "module": name,
            "network": network_of(name),
            RECIPE_TAG: spec.digest(),
        }
        if parent_run_id is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent_run_id
        resumed = resume_run(client, self.registry, experiment_id, name, tags)
        if resumed is not None:
            self.log_epochs(resumed, epochs)
            return resumed
        run_id = create_run(client, self.registry, experiment_id, name, tags)
        client.log_batch(run_id, metrics_of_epochs(epochs), params_of(parameters_of(spec)))
        log_inputs(client, run_id, [dataset_input(spec.dataset, dataset)])
        return run_id

    @speaks_with_mlflow
    def start_network(
        self,
        name: str,
        dataset: str,
        spec: NetworkSpec | None = None,
        digest: str | None = None,
        *,
        kind: Literal["network", "baseline"] = "network",
    ) -> str:
        """The run of a whole network.

        Args:
            name: The network's name.
            dataset: Name of its data set.
            spec: What it is trained from; none for a composition.
            digest: Of the recipe; the spec's if left out. Without either, a run is always new.
            kind: `network`, parent of its modules' runs, or `baseline`.

        Returns:
            The run's id.
        """
        client = self.client
        experiment_id = experiment(client, self.settings, dataset)
        tags: dict[str, str] = {"kind": kind, "network": name}
        if digest is None and spec is not None:
            digest = spec.digest()
        shown = name if kind == "network" else f"{name}.{kind}"
        if digest is not None:
            tags[RECIPE_TAG] = digest
            resumed = resume_run(client, self.registry, experiment_id, shown, tags)
            if resumed is not None:
                return resumed
        run_id = create_run(client, self.registry, experiment_id, shown, tags)
        if spec is not None:
            values = {
                "dataset": spec.dataset.name,
                "backbone": spec.backbone.name,
                "hidden modules": str(len(spec.hidden)),
                "seed": str(spec.seed),
                "train": spec.train,
            }
            client.log_batch(run_id, params=params_of(values))
            client.log_dict(run_id, spec.model_dump(mode="json"), "network.json")
        return run_id

    @speaks_with_mlflow
    def start_study(
        self, name: str, dataset: str, spec: Spec, digest: str, parameters: Mapping[str, str]
    ) -> str:
        """The run of a transfer study, parent of its modules' runs.

        Args:
            name: The study's name.
            dataset: Name of its data set.
            spec: What it was asked for.
            digest: Of all that decides its result.
            parameters: What its page shows.

        Returns:
            The run's id.
        """
        client = self.client
        experiment_id = experiment(client, self.settings, dataset)
        tags = {"kind": "study", "network": name, RECIPE_TAG: digest}
        resumed = resume_run(client, self.registry, experiment_id, name, tags)
        if resumed is not None:
            return resumed
        run_id = create_run(client, self.registry, experiment_id, name, tags)
        client.log_batch(run_id, params=params_of(parameters))
        client.log_dict(run_id, spec.model_dump(mode="json"), "study.json")
        return run_id

    @speaks_with_mlflow
    def find_finished(self, digest: str) -> str | None:
        """Id of the newest finished run of a recipe, in whatever experiment it is."""
        everywhere = all_pages(self.client.search_experiments)
        run = find_run(self.client, [one.experiment_id for one in everywhere], digest, "=")
        return None if run is None else str(run.info.run_id)

    @speaks_with_mlflow
    def running(self) -> tuple[RunningRun, ...]:
        """Our runs that have not ended, in all experiments."""
        return tuple(
            RunningRun(run.info.run_id, run.info.run_name or "", run.data.tags[RECIPE_TAG])
            for run in self.search("attributes.status = 'RUNNING'")
            if RECIPE_TAG in run.data.tags
        )

    @speaks_with_mlflow
    def search(self, condition: str) -> tuple[Run, ...]:
        """Our runs of which a condition in MLflow's language holds, in all experiments."""
        return own_runs(self.client, self.registry, condition)

    @speaks_with_mlflow
    def remove_tag(self, run_id: str, tag: str) -> None:
        """Remove a tag of a run."""
        self.client.delete_tag(run_id, tag)

    @speaks_with_mlflow
    def is_running(self, run_id: str) -> bool:
        """Whether MLflow has the run, and it has not ended."""
        run = self._get(run_id)
        return run is not None and run.info.status == "RUNNING"

    @speaks_with_mlflow
    def doomed(self, run_id: str) -> Doomed | None:
        """What `mlflow gc` takes a run with, if it does: its experiment, or the run alone."""
        run = self._get(run_id)
        return None if run is None else self._doomed(run)

    @speaks_with_mlflow
    def ensure(self, run_id: str) -> bool:
        """Whether MLflow has the run; one that is deleted there is brought back."""
        run = self._get(run_id)
        doomed = None if run is None else self._doomed(run)
        if doomed is not None:
            self.bring_back(doomed)
        return run is not None

    @speaks_with_mlflow
    def names(self, run_id: str) -> tuple[str, str]:
        """Name of a run, and of the experiment that it is in."""
        info = self.client.get_run(run_id).info
        return info.run_name or run_id, self.client.get_experiment(info.experiment_id).name

    def _doomed(self, run: Run) -> Doomed | None:
        experiment = doomed_experiment(self.client, run.info.experiment_id)
        if experiment is None and run.info.lifecycle_stage == DELETED:
            return Doomed("run", run.info.run_id, run.info.run_name or "")
        return experiment

    @speaks_with_mlflow
    def bring_back(self, doomed: Doomed) -> None:
        """Undo a deletion in MLflow; with an experiment all its runs come back."""
        if doomed.kind == "experiment":
            self.client.restore_experiment(doomed.id)
        else:
            self.client.restore_run(doomed.id)

    def _get(self, run_id: str) -> Run | None:
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return None

    @speaks_with_mlflow
    def log_epochs(self, run_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Log the numbers of progress events in one batch, but for epochs that the run has."""
        if not lines:
            return
        there = {m.step for m in self.client.get_metric_history(run_id, "seconds")}
        new = [line for line in lines if line["epoch"] not in there]
        self.client.log_batch(run_id, metrics_of_epochs(new))

    @speaks_with_mlflow
    def log_metrics(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Log the finite numbers among `values` in one batch."""
        self.client.log_batch(run_id, metrics=metrics_now(values))

    @speaks_with_mlflow
    def log_figures(self, run_id: str, figures: Mapping[str, bytes]) -> None:
        """Log pictures, bytes by file name ('objective.png'), under `figures/` of the run."""
        with tempfile.TemporaryDirectory() as folder:
            for file_name, content in figures.items():
                path = Path(folder) / Path(file_name).name
                path.write_bytes(content)
                self.client.log_artifact(run_id, str(path), FIGURES)

    @speaks_with_mlflow
    def log_table(self, run_id: str, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Log a table, a list a column, as a file of the run that MLflow's page shows."""
        self.client.log_table(run_id, dict(columns), name)

    @speaks_with_mlflow
    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Log a text as a file of the run."""
        self.client.log_text(run_id, text, name)

    @speaks_with_mlflow
    def read_file(self, run_id: str, name: str) -> bytes:
        """A file of the run."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, name, folder)).read_bytes()

    @speaks_with_mlflow
    def figures(self, run_id: str) -> tuple[str, ...]:
        """Paths of a run's pictures among its artifacts; none where there is no such run."""
        try:
            uri = place_of(self.client, run_id).artifact_uri
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return ()
        # Asked by the run's id, MLflow would look through its models as well.
        names = listed(self.client, f"{uri}/{FIGURES}", folders=False)
        return tuple(f"{FIGURES}/{name}" for name in names)

    @speaks_with_mlflow
    def describe_network(
        self,
        run_id: str,
        facts: DatasetFacts,
        params: Mapping[str, str],
        models: Sequence[str],
        note: str,
    ) -> None:
        """Say on a network's run what it is made of; what the run says already stays.

        Args:
            run_id: The run.
            facts: Of its data set, which becomes an input.
            params: By name, as runs are compared.
            models: MLflow's ids of the models of all its modules, which become inputs.
            note: What its page says, as markdown.
        """
        run = self.client.get_run(run_id)
        new = {key: value for key, value in params.items() if key not in run.data.params}
        is_news = run.data.tags.get(MLFLOW_RUN_NOTE) != note
        notes = [RunTag(MLFLOW_RUN_NOTE, note)] if is_news else []
        self.client.log_batch(run_id, params=params_of(new), tags=notes)
        inputs = run.inputs
        has_data = inputs is not None and inputs.dataset_inputs
        known = {model.model_id for model in inputs.model_inputs} if inputs else set()
        log_inputs(
            self.client,
            run_id,
            [] if has_data else [dataset_input(facts, None)],
            [LoggedModelInput(model) for model in models if model not in known],
        )

    @speaks_with_mlflow
    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End the run."""
        self.client.set_terminated(run_id, status)


def network_of(name: str) -> str:
    """Name of the network in a module's registered name."""
    network, _, part = name.rpartition(".")
    return network if network and part else name
