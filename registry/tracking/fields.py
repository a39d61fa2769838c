"""Specs and reports as MLflow holds them: flat parameters, numbers, a data set as an input."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param
from mlflow.exceptions import MlflowException

from modkernel.spec import DatasetFacts, ModuleSpec
from modkernel.training.report import TrainReport

if TYPE_CHECKING:
    from modkernel.data import DatasetInfo

RECIPE_TAG = "recipe_digest"
"""Tag of runs and versions: what decided the training."""
PARAMETER_CHARACTERS = 6000
"""MLflow takes no longer value of a parameter."""
DIGEST_CHARACTERS = 36
"""MLflow keeps this much of a data set's digest; the source holds the whole fingerprint."""


def parameters_of(spec: ModuleSpec) -> dict[str, str]:
    """What decided the training, flat: 'hidden.recipe.epochs' and so on."""
    chosen = spec.model_dump(mode="json", exclude={"preprocessing", "dataset", "classes"})
    flat = _flatten(chosen) | {"dataset.name": spec.dataset.name}
    if spec.interface.joins:
        shown = (f"{one.id[:12]} × {one.weight:g}" for one in spec.interface.upstream)
        flat["interface.upstream"] = ", ".join(shown)[:PARAMETER_CHARACTERS]
    return {key: text for key, text in flat.items() if text not in ("None", "")}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among `values`; truth values are none."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def metrics_now(
    values: Mapping[str, Any], step: int = 0, model_id: str | None = None
) -> list[Metric]:
    """The finite numbers among `values` as MLflow takes them.

    Args:
        values: By name.
        step: The epoch, of what has epochs.
        model_id: MLflow's id of the model that shows them too, beside its run.
    """
    now = time.time_ns() // 1_000_000
    return [
        Metric(key, value, now, step, model_id=model_id) for key, value in numbers(values).items()
    ]


def metrics_of_epochs(lines: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The same of progress events, each at its epoch."""
    return [
        metric
        for line in lines
        for metric in metrics_now(line, int(line["epoch"]))
        if metric.key not in ("epoch", "epochs")
    ]


def metrics_of(report: TrainReport) -> dict[str, float]:
    """The numbers of a report that a person compares modules by."""
    best = next((line for line in report.history if line.epoch == report.best_epoch), None)
    values: dict[str, object] = {}
    if best is not None:
        values |= {"objective": best.objective, "validation": best.validation}
    if report.evaluation is not None:
        values |= report.evaluation.metrics()
    if report.stitch is not None:
        values |= report.stitch.metrics()
    return numbers(values)


def dataset_input(facts: DatasetFacts, info: DatasetInfo | None) -> DatasetInput:
    """A module's data set as its run's input, with the numbers of examples where known."""
    counts = {} if info is None else {"train": info.n_train, "validation": info.n_validation}
    source = {"fingerprint": facts.fingerprint, "pairs_fingerprint": facts.pairs_fingerprint}
    if facts.pairs is not None:
        source["pairs"] = facts.pairs
    dataset = Dataset(
        name=facts.name,
        digest=facts.fingerprint[:DIGEST_CHARACTERS],
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


def params_of(values: Mapping[str, str]) -> list[Param]:
    """Parameters as MLflow takes them."""
    return [Param(key, value) for key, value in values.items()]


def log_inputs(
    client: MlflowClient,
    run_id: str,
    datasets: Sequence[DatasetInput],
    models: Sequence[LoggedModelInput] = (),
) -> None:
    """Log data sets and models as inputs of a run; each once."""
    if not datasets and not models:
        return
    try:
        client.log_inputs(run_id, list(datasets), list(models))
    except MlflowException:
        # Another run of the experiment wrote the same data set's row between MLflow's look and its
        # write: now that it is there, it is found.
        client.log_inputs(run_id, list(datasets), list(models))
