"""Baselines: networks trained as a whole, kept in MLflow alone since no module comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modkernel.registry.backends import Stores
from modkernel.registry.modules import metrics_of
from modkernel.registry.tracking import runs
from modkernel.training.report import TrainReport

REPORT = "report.json"


@dataclass(frozen=True)
class Baseline:
    """A finished baseline."""

    run_id: str
    report: TrainReport


def find_baseline(stores: Stores, name: str, digest: str) -> Baseline | None:
    """The finished baseline of a recipe among the runs of a network, if there is one."""
    client = stores.client
    experiment_id = runs.experiment(client, stores.settings, name)
    run = runs.find_run(client, experiment_id, digest, finished=True)
    if run is None:
        return None
    content = Path(client.download_artifacts(run.info.run_id, REPORT)).read_bytes()
    return Baseline(run.info.run_id, TrainReport.model_validate_json(content))


def keep_baseline(
    stores: Stores, run_id: str, report: TrainReport, figures: Mapping[str, bytes]
) -> Baseline:
    """Put a report and pictures on a baseline's run; it can be found once the run is finished."""
    runs.log_figures(stores.client, run_id, figures)
    runs.log_metrics(stores.client, run_id, metrics_of(report))
    stores.client.log_text(run_id, report.model_dump_json(indent=1), REPORT)
    return Baseline(run_id, report)
