"""Baselines: networks trained as a whole, kept in MLflow alone since no module comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modkernel.registry.tracking.fields import metrics_of
from modkernel.registry.tracking.runs import Runs
from modkernel.spec import NetworkSpec
from modkernel.training.report import TrainReport

REPORT = "report.json"
"""File of a baseline's run."""


@dataclass(frozen=True)
class Baseline:
    """A finished baseline."""

    run_id: str
    report: TrainReport


@dataclass(frozen=True)
class Baselines:
    """The baselines. Every method raises StoreError where MLflow does not answer."""

    runs: Runs

    def find(self, digest: str) -> Baseline | None:
        """The finished baseline of a recipe, if there is one."""
        run_id = self.runs.find_finished(digest)
        if run_id is None:
            return None
        content = self.runs.read_file(run_id, REPORT)
        return Baseline(run_id, TrainReport.model_validate_json(content))

    def start_run(self, name: str, spec: NetworkSpec, digest: str) -> str:
        """The MLflow run of a baseline, resumed if it died. Returns its id."""
        return self.runs.start_network(name, spec.dataset.name, spec, digest, kind="baseline")

    def store(self, run_id: str, report: TrainReport, figures: Mapping[str, bytes]) -> Baseline:
        """Put a report and pictures on a baseline's run; it is found once the run is finished."""
        self.runs.log_figures(run_id, figures)
        self.runs.log_metrics(run_id, metrics_of(report))
        self.runs.log_text(run_id, report.model_dump_json(indent=1), REPORT)
        return Baseline(run_id, report)
