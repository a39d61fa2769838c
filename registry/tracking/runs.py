"""MLflow runs: parameters, the data set as an input, metrics per epoch, figures."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME

from modkernel.registry.settings import Settings
from modkernel.spec import DatasetFacts, ModuleSpec, NetworkSpec, Spec

if TYPE_CHECKING:
    from modkernel.data import DatasetInfo

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

RECIPE_TAG = "recipe_digest"
FIGURES = "figures"
DIGEST_LIMIT = 36
"""MLflow keeps this much of a data set's digest; the source holds the whole fingerprint."""
BATCH_LIMIT = 100
METRICS_LIMIT = 1000


def start_run(
    client: MlflowClient,
    settings: Settings,
    name: str,
    spec: ModuleSpec,
    parent_run_id: str | None = None,
    dataset: DatasetInfo | None = None,
) -> str:
    """The run of a module's training; one that died with the same recipe is gone on with.

    Args:
        client: MLflow.
        settings: Where artifacts go when the experiment is new.
        name: Registered name of the module; its network's name is the experiment's.
        spec: The module's spec.
        parent_run_id: The network's run.
        dataset: Adds the numbers of examples to the data set input.

    Returns:
        The run's id.
    """
    experiment_id = experiment(client, settings, network_of(name))
    tags = {"kind": spec.kind, "module": name, RECIPE_TAG: spec.digest()}
    if parent_run_id is not None:
        tags[MLFLOW_PARENT_RUN_ID] = parent_run_id
    resumed = _resume(client, experiment_id, tags)
    if resumed is not None:
        return resumed
    run_id = _create(client, experiment_id, name, tags)
    _log_params(client, run_id, parameters(spec))
    _log_dataset(client, run_id, _dataset_input(spec.dataset, dataset))
    return run_id


def start_network_run(
    client: MlflowClient,
    settings: Settings,
    name: str,
    spec: NetworkSpec | None,
    kind: Literal["network", "baseline"] = "network",
    digest: str | None = None,
) -> str:
    """The run of a whole network; one that died with the same recipe is gone on with.

    Args:
        client: MLflow.
        settings: Where artifacts go when the experiment is new.
        name: The network's name.
        spec: What it is trained from; none for a composition.
        kind: `network`, parent of its modules' runs, or `baseline`.
        digest: Of the recipe; the spec's if left out. Without either, a run is always new.

    Returns:
        The run's id.
    """
    experiment_id = experiment(client, settings, name)
    tags: dict[str, str] = {"kind": kind}
    if digest is None and spec is not None:
        digest = spec.digest()
    if digest is not None:
        tags[RECIPE_TAG] = digest
        resumed = _resume(client, experiment_id, tags)
        if resumed is not None:
            return resumed
    run_id = _create(client, experiment_id, name if kind == "network" else f"{name}.{kind}", tags)
    if spec is not None:
        _log_params(
            client,
            run_id,
            {
                "dataset": spec.dataset.name,
                "backbone": spec.backbone.name,
                "hidden modules": str(len(spec.hidden)),
                "seed": str(spec.seed),
            },
        )
        client.log_dict(run_id, spec.model_dump(mode="json"), "network.json")
    return run_id


def start_study_run(
    client: MlflowClient,
    settings: Settings,
    name: str,
    spec: Spec,
    digest: str,
    parameters: Mapping[str, str],
) -> str:
    """The run of a transfer study; one that died with the same digest is gone on with.

    Args:
        client: MLflow.
        settings: Where artifacts go when the experiment is new.
        name: The study's name.
        spec: What it was asked for.
        digest: Of all that decides its result.
        parameters: What its page shows.

    Returns:
        The run's id.
    """
    experiment_id = experiment(client, settings, name)
    tags = {"kind": "study", RECIPE_TAG: digest}
    resumed = _resume(client, experiment_id, tags)
    if resumed is not None:
        return resumed
    run_id = _create(client, experiment_id, name, tags)
    _log_params(client, run_id, parameters)
    client.log_dict(run_id, spec.model_dump(mode="json"), "study.json")
    return run_id


def log_epochs(client: MlflowClient, run_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Log the numbers of progress events in one batch, but for the epochs that the run has."""
    if not lines:
        return
    there = {metric.step for metric in client.get_metric_history(run_id, "seconds")}
    now = time.time_ns() // 1_000_000
    metrics = [
        Metric(key, value, now, int(line["epoch"]))
        for line in lines
        if line["epoch"] not in there
        for key, value in numbers(line).items()
        if key not in ("epoch", "epochs")
    ]
    for start in range(0, len(metrics), METRICS_LIMIT):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_LIMIT])


def log_metrics(
    client: MlflowClient, run_id: str, values: Mapping[str, Any], step: int = 0
) -> None:
    """Log the finite numbers among `values` in one batch."""
    now = time.time_ns() // 1_000_000
    metrics = [Metric(k, v, now, step) for k, v in numbers(values).items()]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def log_figures(client: MlflowClient, run_id: str, figures: Mapping[str, bytes]) -> None:
    """Log pictures, bytes by file name ('objective.png'), under `figures/` of the run."""
    with tempfile.TemporaryDirectory() as folder:
        for file_name, content in figures.items():
            path = Path(folder) / Path(file_name).name
            path.write_bytes(content)
            client.log_artifact(run_id, str(path), FIGURES)


def figures_of(client: MlflowClient, run_id: str) -> tuple[str, ...]:
    """Paths of the run's pictures."""
    return tuple(file.path for file in client.list_artifacts(run_id, FIGURES) if not file.is_dir)


def finish_run(client: MlflowClient, run_id: str, status: RunStatus = "FINISHED") -> None:
    """End a run."""
    client.set_terminated(run_id, status)


def experiment(client: MlflowClient, settings: Settings, name: str) -> str:
    """Id of the experiment, made if there is none, brought back if it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # Fixed at creation: the default would depend on where a server is started later.
        remote = settings.mlflow_uri.startswith("http")
        location = None if remote else (settings.artifact_root / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return experiment(client, settings, name)  # another process was faster
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def network_of(name: str) -> str:
    """Name of the network in a module's registered name: the experiment's name."""
    network, _, part = name.rpartition(".")
    return network if network and part else name


def parameters(spec: ModuleSpec) -> dict[str, str]:
    """What decided the training, flat: 'hidden.recipe.epochs' and so on."""
    chosen = spec.model_dump(mode="json", exclude={"preprocessing", "dataset", "classes"})
    flat = _flatten(chosen) | {"dataset.name": spec.dataset.name}
    return {key: text for key, text in flat.items() if text not in ("None", "")}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among `values`; truth values are none."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def find_run(client: MlflowClient, experiment_id: str, digest: str, finished: bool) -> Run | None:
    """The newest run of a recipe that is finished, or that is not."""
    found = client.search_runs(
        [experiment_id],
        f"tags.{RECIPE_TAG} = '{digest}' and "
        f"attributes.status {'=' if finished else '!='} 'FINISHED'",
        run_view_type=ViewType.ACTIVE_ONLY,
        max_results=1,
    )
    return found[0] if found else None


def _resume(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    run = find_run(client, experiment_id, tags[RECIPE_TAG], finished=False)
    if run is None:
        return None
    run_id = str(run.info.run_id)
    client.update_run(run_id, status="RUNNING")
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    return run_id


def _create(client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str]) -> str:
    run = client.create_run(
        experiment_id, tags=tags | {MLFLOW_SOURCE_NAME: "modkernel"}, run_name=name
    )
    return str(run.info.run_id)


def _log_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    params = [Param(key, value) for key, value in values.items()]
    for start in range(0, len(params), BATCH_LIMIT):
        client.log_batch(run_id, params=params[start : start + BATCH_LIMIT])


def _log_dataset(client: MlflowClient, run_id: str, dataset: DatasetInput) -> None:
    try:
        client.log_inputs(run_id, datasets=[dataset])
    except MlflowException:
        # Another run of the experiment wrote the same data set's row between MLflow's look and its
        # write: now that it is there, it is found.
        client.log_inputs(run_id, datasets=[dataset])


def _dataset_input(facts: DatasetFacts, info: DatasetInfo | None) -> DatasetInput:
    counts = {} if info is None else {"train": info.n_train, "validation": info.n_validation}
    source = {"fingerprint": facts.fingerprint, "pairs_fingerprint": facts.pairs_fingerprint}
    dataset = Dataset(
        name=facts.name,
        digest=facts.fingerprint[:DIGEST_LIMIT],
        source_type="modkernel",
        source=json.dumps(source),
        profile=json.dumps(counts | {"classes": len(facts.classes)}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return {prefix: text}
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat
