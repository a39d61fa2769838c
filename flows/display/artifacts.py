"""Prefect artifacts: progress of a module, a card per module, a summary per network."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from modkernel.flows.runtime.results import BaselineResult, NetworkResult
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.tracking.cards import module_card
from modkernel.registry.tracking.markdown import plain
from modkernel.training.report import OutputEvaluation, TrainReport

AWAY = (httpx.HTTPError, PrefectHTTPStatusError)
"""What Prefect's client raises of a server that is away, or has no database for a moment."""
AWAY_SECONDS = 60.0
"""For which a server that did not answer is left alone: training is followed meanwhile."""
UPDATE_SECONDS = 2.0
"""Least time between two moves of a bar: each is a request to the server."""


class ProgressArtifact:
    """A progress bar in Prefect, made with the first epoch."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._id: UUID | None = None
        self._updated = self._away_until = 0.0

    def show(self, epoch: int, epochs: int) -> None:
        """Move the bar to an epoch that is done."""
        percent = 100.0 * epoch / epochs
        now = time.monotonic()
        if now < self._away_until:
            return
        try:
            self._show(percent, now, epoch == epochs)
        except AWAY as error:
            get_run_logger().info("The progress bar stands still: %s", error)
            self._away_until = now + AWAY_SECONDS

    def _show(self, percent: float, now: float, is_last: bool) -> None:
        if self._id is None:
            made = create_progress_artifact(
                percent,
                key=artifact_key("progress", self._name),
                description=f"Training {self._name}",
            )
            assert isinstance(made, UUID)  # Outside of an event loop it is no coroutine.
            self._id = made
        elif is_last or now - self._updated >= UPDATE_SECONDS:
            update_progress_artifact(self._id, percent)
        else:
            return
        self._updated = now


def leave_page(markdown: str, *, key: str, description: str) -> None:
    """Leave a page in Prefect; where its server does not answer, the work is done all the same.

    Args:
        markdown: the page.
        key: of the artifact.
        description: for its list.
    """
    try:
        create_markdown_artifact(markdown, key=key, description=description)
    except AWAY as error:
        get_run_logger().warning("%s is not shown in Prefect: %s", description, error)


def show_module(
    record: ModuleRecord,
    chain: Sequence[ModuleRecord],
    report: TrainReport,
    figures: Mapping[str, bytes],
) -> None:
    """Leave a module's card: what MLflow's version page says, with its figures."""
    what, module_id, measured = module_card(record, chain, report).split("\n\n", maxsplit=2)
    card = "\n\n".join([what, module_id, *map(image, figures.values()), measured])
    leave_page(card, key=artifact_key("module", record.name), description=f"Module {record.name}")


def show_network(result: NetworkResult, figure: bytes) -> None:
    """Leave a network's summary."""
    parts = [
        f"# Network {result.name}",
        f"{result.trained_modules} modules trained, {result.reused_modules} reused, in "
        f"{result.seconds:.1f} s. Network id `{result.id}`.",
        table(
            ("module", "version", "id", "", "objective", "training", "peak memory"),
            (
                (
                    module.name,
                    str(module.version),
                    f"`{module.id[:12]}`",
                    "reused" if module.reused else "trained",
                    "" if module.objective is None else f"{module.objective:.4f}",
                    f"{module.seconds:.1f} s",
                    _mib(module.peak_memory_bytes),
                )
                for module in result.modules
            ),
        ),
    ]
    if result.evaluation is not None:
        parts += ["## Accuracy on the test part", _evaluation(result.evaluation)]
    parts.append(image(figure))
    leave_page(
        "\n\n".join(parts),
        key=artifact_key("network", result.name),
        description=f"Network {result.name}",
    )


def baseline_place(registry: Registry, run_id: str) -> str:
    """Where a baseline's result is kept, in words.

    Args:
        registry: has the run.
        run_id: of the baseline.

    Raises:
        StoreError: MLflow does not answer.
    """
    name, experiment = registry.runs.names(run_id)
    return (
        f"It is run '{name}' ({run_id}) of experiment '{experiment}' in MLflow, and no network of "
        "the registry; the same command shows it again without training."
    )


def show_baseline(result: BaselineResult, place: str, figures: Mapping[str, bytes]) -> None:
    """Leave a baseline's summary; `place` is where it is kept, in words."""
    parts = [
        f"# {result.name} trained end to end",
        f"{result.train_seconds:.1f} s of training, peak memory "
        f"{_mib(result.peak_memory_bytes)}{', done before and reused' if result.reused else ''}.",
        _evaluation(result.evaluation),
        plain(place),
        *map(image, figures.values()),
    ]
    leave_page(
        "\n\n".join(parts),
        key=artifact_key("baseline", result.name),
        description=f"Baseline {result.name}",
    )


def _evaluation(evaluation: OutputEvaluation) -> str:
    one, draws = evaluation, f"{evaluation.labels_name}, {evaluation.draws} draws"
    rows = [
        ("stored module", one.accuracy, one.balanced_accuracy, one.worst_class.text),
        (
            f"{draws}: mean",
            one.accuracy_mean,
            one.balanced_accuracy_mean,
            one.worst_class_mean.text,
        ),
        (f"{draws}: least", one.accuracy_min, one.balanced_accuracy_min, ""),
        (f"{draws}: most", one.accuracy_max, one.balanced_accuracy_max, ""),
        (
            "all labels",
            one.accuracy_all_labels,
            one.balanced_accuracy_all_labels,
            one.worst_class_all_labels.text,
        ),
    ]
    shown = table(
        ("labels", "accuracy", "balanced accuracy", "worst class"),
        [(what, f"{share:.2%}", f"{even:.2%}", plain(worst)) for what, share, even, worst in rows],
    )
    if one.remarks:
        shown += f"\n\n{plain(one.remarks)}"
    return shown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _mib(size: int | None) -> str:
    return "not measured" if size is None else f"{size / 2**20:.0f} MiB"


def image(figure: bytes) -> str:
    """A PNG within markdown."""
    return f"![figure](data:image/png;base64,{base64.b64encode(figure).decode()})"


def artifact_key(kind: str, name: str) -> str:
    """Prefect's keys are of lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind}-{name.lower()}").strip("-")
