"""A study's files: results.json, scores.csv and the figures, in one folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from modkernel.errors import SettingsError
from modkernel.flows.study.result import StudyResult
from modkernel.system.files import replace_file

RESULTS, SCORES, HEAT_MAPS, TREES = "results.json", "scores.csv", "heat_maps.png", "tasks.png"
"""File names in a study's folder."""
TRUTH = ("ground_truth", "balanced_accuracy", "worst_class_accuracy")
"""Columns of scores.csv with what a module is really worth for a target."""


def scores_csv(result: StudyResult) -> str:
    """One row a source and target: ground truth and every score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = (*result.scores, *result.baselines)
    writer.writerow(["source", "target", *TRUTH, *(score.name for score in scores)])
    for row, source in enumerate(result.tasks):
        for column, target in enumerate(result.tasks):
            values = (score.matrix[row][column] for score in scores)
            found = (each[row][column] for each in (result.truth, result.balanced, result.worst))
            writer.writerow([source.name, target.name, *found, *values])
    return text.getvalue()


def files_of(result: StudyResult, figures: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files by name."""
    return {
        RESULTS: (result.model_dump_json(indent=1) + "\n").encode(),
        SCORES: scores_csv(result).encode(),
        **figures,
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each complete or not at all.

    Raises:
        SettingsError: the folder cannot be made or written to.
    """
    try:
        for name, content in files.items():
            replace_file(folder / name, content, durable=True)
    except OSError as error:
        raise SettingsError(
            f"Cannot write the study's files to {folder}: {error.strerror}. Give another --output."
        ) from None
