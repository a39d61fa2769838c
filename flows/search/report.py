"""How a search is reported: an artifact in Prefect, a figure and a table in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modkernel.flows.display.artifacts import artifact_key, image, leave_page, table
from modkernel.flows.search.result import CandidateResult, SearchResult
from modkernel.flows.search.spec import ACCURACY
from modkernel.registry import Registry
from modkernel.registry.tracking.markdown import plain

FIGURE, TABLE = "search.png", "search.json"
"""File names on the search's MLflow run."""


def show_search(result: SearchResult, figure: bytes) -> None:
    """Leave the search's summary in Prefect."""
    evaluation, columns = result.network.evaluation, columns_of(result)
    parts = [
        f"# Module search {result.name}",
        cost_sentence(result),
        image(figure),
        table(
            [head.strip() for head in columns],
            [tuple(map(plain, cells)) for cells in zip(*columns.values(), strict=True)],
        ),
    ]
    if evaluation is not None:
        parts.insert(
            1,
            f"Test accuracy **{evaluation.accuracy_all_labels:.2%}** with all labels, "
            f"{evaluation.accuracy_mean:.2%} with {evaluation.labels_name} (mean of "
            f"{evaluation.draws} draws). {plain(evaluation.labels_told)}. With all labels "
            f"balanced accuracy is {evaluation.balanced_accuracy_all_labels:.2%}, worst class "
            f"{plain(evaluation.worst_class_all_labels.text)}. Network id `{result.network.id}`.",
        )
    leave_page(
        "\n\n".join(parts),
        key=artifact_key("search", result.name),
        description=f"Module search {result.name}",
    )


def log_search(registry: Registry, run_id: str, result: SearchResult, figure: bytes) -> None:
    """Put figure, table and cost on the search's MLflow run."""
    registry.runs.log_figures(run_id, {FIGURE: figure})
    registry.runs.log_metrics(
        run_id,
        {
            "search_modules": len(result.candidates),
            "search_networks": result.networks,
            "search_training_seconds": result.training_seconds,
            "search_networks_seconds": result.networks_seconds,
        },
    )
    columns: dict[str, Callable[[CandidateResult], Any]] = {
        "stage": lambda row: row.stage,
        "candidate": lambda row: row.candidate,
        "description": lambda row: row.description,
        result.score: lambda row: row.score,
        "balanced_accuracy": lambda row: row.balanced_accuracy,
        "held_out": lambda row: row.held_out,
        "worst_class": lambda row: None if row.worst_class is None else row.worst_class.text,
        "seconds": lambda row: None if row.module is None else row.module.seconds,
        "module": lambda row: None if row.module is None else row.module.id,
        "stands_on": lambda row: row.stands_on,
        "kept": lambda row: row.kept,
        "error": lambda row: row.error,
    }
    data = {name: [value(row) for row in result.candidates] for name, value in columns.items()}
    registry.runs.log_table(run_id, data, TABLE)


def columns_of(result: SearchResult) -> dict[str, list[str]]:
    """One row of text a candidate, as columns by heading; those of figures end in a space.

    Columns without a figure are left out: of scores of moments, the accuracies.
    """
    own = f"{result.name}."  # Modules that it found stored keep the names of who trained them.
    names = {
        row.module.id: f"{row.module.name.removeprefix(own)}/{row.module.version}"
        for row in result.candidates
        if row.module is not None
    }
    rows = result.candidates
    columns = {
        "stage": [str(row.stage) for row in rows],
        "candidate": [row.description for row in rows],
        "on": ["the data" if row.stands_on is None else names[row.stands_on] for row in rows],
        f"{result.score} ": [_score(result.score, row.score) for row in rows],
        "balanced ": [_score(ACCURACY, row.balanced_accuracy) for row in rows],
        "worst class": ["" if row.worst_class is None else row.worst_class.text for row in rows],
        "training ": ["" if row.module is None else f"{row.module.seconds:.1f} s" for row in rows],
        "module": ["" if row.module is None else names[row.module.id] for row in rows],
        "": [_fate(row, result) for row in rows],
    }
    return {head: cells for head, cells in columns.items() if any(cells)}


def stage_sentence(rows: Sequence[CandidateResult], score: str, *, last: bool) -> str:
    """What was kept of a stage that is done, and for what.

    Args:
        rows: the candidates of all stages up to it.
        score: of the search.
        last: whether no stage follows.
    """
    of_stage = [row for row in rows if row.stage == rows[-1].stage]
    several = len({row.stands_on for row in of_stage}) > 1
    by_id = {row.module.id: row for row in rows if row.module is not None}

    def text(row: CandidateResult) -> str:
        below = _below(row, by_id) if several else ""
        return f"{row.description}{below} ({score} {row.score:.4g})"

    kept = "; ".join(text(row) for row in of_stage if row.kept and row.score is not None)
    use = "the network is made of" if last else "the next stage builds on"
    return f"Stage {rows[-1].stage}: of {len(of_stage)} candidates, {use} {kept}."


def cost_sentence(result: SearchResult) -> str:
    """What the search cost, against training every network that its candidates make up."""
    failed = sum(row.error is not None for row in result.candidates)
    modules = [row.module for row in result.candidates if row.module is not None]
    reused = sum(module.reused for module in modules)
    output = result.network.modules[-1]
    return (
        f"{len(result.candidates)} candidates were tried, {failed} failed. Their "
        f"{len(modules)} modules, {len(modules) - reused} trained now and {reused} reused, took "
        f"{result.training_seconds:.1f} s of training; the output module, "
        f"{'reused' if output.reused else 'trained now'}, took {output.seconds:.1f} s. All "
        f"{result.networks} networks that these modules make up would take about "
        f"{result.networks_seconds:.0f} s without their output modules."
    )


def _below(row: CandidateResult, by_id: Mapping[str, CandidateResult]) -> str:
    """All that a candidate stands on: a stage may have others of its description elsewhere."""
    if row.stands_on is None:
        return ""
    below = by_id[row.stands_on]
    return f" on '{below.description}'{_below(below, by_id)}"


def _fate(row: CandidateResult, result: SearchResult) -> str:
    if row.error is not None:
        return "failed"
    if row.module is not None and row.module.id in result.winners:
        return "in the network"
    return "kept" if row.kept else ""


def _score(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if name == ACCURACY else f"{value:.4g}"
