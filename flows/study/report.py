"""A study's report: the summary in Prefect, and the run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping

from modkernel.flows.display.artifacts import artifact_key, image, leave_page, table
from modkernel.flows.study.result import Rows, ScoreResult, Seconds, StudyResult
from modkernel.registry import Registry
from modkernel.registry.tracking.markdown import plain
from modkernel.reuse.scores import DEFAULT_SCORE

HEAD = ("score", "Spearman", "Kendall", "weighted τ", "points lost", "Spearman with own", "seconds")
"""Columns of the table of scores."""


def summary(result: StudyResult, figures: Mapping[str, bytes]) -> str:
    """The study as markdown, figures included."""
    parts = [
        f"# Transfer study {result.name}",
        f"{len(result.tasks)} tasks on {plain(result.dataset)}: {result.trained_modules} modules "
        f"trained, {result.reused_modules} reused.",
        "How well each score ranks the other tasks' modules for a task, as a mean over the tasks; "
        "points of accuracy lost by taking the best-scored of them. The static rankings, by size, "
        "depth and training examples, look at no task: a score has to beat them.",
        table(HEAD, [score_row(score) for score in result.best_first]),
        plain(ranked_sentence(result)),
        plain(truth_sentence(result)),
        plain(training_sentence(result)),
        *(plain(f"{name} is left out. {reason}") for name, reason in result.left_out.items()),
        *map(image, figures.values()),
        "## What it cost",
        table(("", "seconds", "of training"), cost_rows(result.seconds)),
        "## Modules",
        table(
            ("task", "sides", "backbone", "module", "", "training"),
            [
                (
                    plain(task.name),
                    plain("; ".join(" + ".join(classes) for classes in task.sides.values())),
                    plain(task.backbone),
                    f"`{task.module_id[:12]}`",
                    "reused" if task.reused else "trained",
                    f"{task.seconds:.1f} s",
                )
                for task in result.tasks
            ],
        ),
    ]
    return "\n\n".join(parts)


def ranked_sentence(result: StudyResult) -> str:
    """Of how many tasks the correlations are, where it is not all; else nothing."""
    every = len(result.tasks)
    fewer: dict[tuple[int, int], list[str]] = {}
    for score in result.best_first:
        counts = (score.ranked, score.ranked_with_own)
        if min(counts) < every and any(counts):  # Of none there is no figure in the table.
            fewer.setdefault(counts, []).append(score.name)
    if not fewer:
        return ""
    told = "; ".join(
        f"{ranked} of {every} (with own {with_own}) for {', '.join(names)}"
        for (ranked, with_own), names in fewer.items()
    )
    return (
        "Correlations are means over the tasks for which the modules differ in the score and in "
        f"the ground truth: {told}. Points lost are of all tasks."
    )


def truth_sentence(result: StudyResult) -> str:
    """What the ground truth is in the mean, and where a side of a target is found worst."""
    worst, source, target = min(
        (share, source.name, target.name)
        for source, row in zip(result.tasks, result.worst, strict=True)
        for target, share in zip(result.tasks, row, strict=True)
    )
    return (
        f"Ground truth: mean accuracy {_mean(result.truth):.2%}, balanced "
        f"{_mean(result.balanced):.2%}. The worst-found side of a target: {worst:.2%}, of "
        f"{target} on the module of {source}."
    )


def training_sentence(result: StudyResult) -> str:
    """How often the advice whether to train a new module was right."""
    said = result.training_advice
    if said is None:
        return ""
    return (
        f"Whether to train a new module, told of each task by the others: {said.better} of "
        f"{len(result.tasks)} tasks are better off with a module of their own than with the "
        f"best-scored of another task. 'Train one' was said of {said.train} and right of "
        f"{said.train_right}, 'reuse' of {said.reuse} and right of {said.reuse_right}; of "
        f"{said.unsure} it could not be told."
    )


def _mean(rows: Rows) -> float:
    return sum(map(sum, rows)) / len(rows) ** 2


def score_row(score: ScoreResult) -> tuple[str, ...]:
    """What a table says of one score, under `HEAD`."""
    agrees = score.agreement
    figures = (
        agrees.spearman,
        agrees.kendall,
        agrees.weighted_tau,
        agrees.lost,
        agrees.spearman_with_own,
    )
    written = (
        "" if value is None else f"{value:.{digits}f}"
        for value, digits in zip(figures, (3, 3, 3, 2, 3), strict=True)
    )
    default = " (default)" if score.name == DEFAULT_SCORE else ""
    return (f"{score.name}{default}", *written, f"{score.seconds:.2f}")


def cost_rows(seconds: Seconds) -> list[tuple[str, str, str]]:
    """Rows of a table: what was done, its seconds, its share of training."""
    return [
        ("training all modules", f"{seconds.training:.1f}", ""),
        ("features and moments", f"{seconds.features:.1f}", f"{seconds.features_share:.2%}"),
        ("all scores from moments", f"{seconds.scores:.2f}", f"{seconds.scores_share:.2%}"),
        ("ground truth", f"{seconds.truth:.1f}", ""),
    ]


def show_study(result: StudyResult, figures: Mapping[str, bytes]) -> None:
    """Leave the summary in Prefect."""
    leave_page(
        summary(result, figures),
        key=artifact_key("study", result.name),
        description=f"Transfer study {result.name}",
    )


def log_study(
    registry: Registry, run_id: str, result: StudyResult, files: Mapping[str, bytes]
) -> None:
    """Put figures, metrics and tables on the study's MLflow run."""
    metrics: dict[str, float | None] = {
        f"seconds/{name}": value for name, value in result.seconds.model_dump().items()
    }
    for score in result.best_first:
        agreement = score.agreement.model_dump()
        metrics |= {f"{measure}/{score.name}": value for measure, value in agreement.items()}
    registry.runs.log_metrics(run_id, metrics)
    figures = {name: content for name, content in files.items() if name.endswith(".png")}
    registry.runs.log_figures(run_id, figures)
    for name, content in files.items():
        if name not in figures:
            registry.runs.log_text(run_id, content.decode(), name)
