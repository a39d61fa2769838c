"""`study`: which score predicts best what a module is worth for other tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._options import Channels, Data, ImageSize, dataset_fields
from modkernel.flows.cli._output import Json, out, print_json, print_table
from modkernel.flows.cli._run_flow import Verbose, flow_running

if TYPE_CHECKING:
    from modkernel.flows.study.result import StudyResult
    from modkernel.flows.study.spec import StudySpec


def study(
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC.yaml",
            help="A study's spec file, see examples/study_*; without one, all pairs of six "
            "classes of the data.",
        ),
    ] = None,
    data: Data = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, in place of a folder.")] = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for results and figures; HOME/studies/NAME if left out."),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a module per task, and compare each score of reuse with what reuse really gives.

    What was trained or evaluated before is reused: stop it at any time, call it again to resume.

    --json: {name, dataset, fingerprint, tasks: list of {name, backbone, sides, module_id, reused,
    seconds}, truth: matrix of accuracies, scores: list of {name, matrix, agreement: {spearman,
    kendall, weighted_tau, spearman_with_own, kendall_with_own, weighted_tau_with_own, lost},
    ranked, ranked_with_own, seconds}, baselines: the static rankings, likewise, training_advice:
    {better, train, train_right, reuse, reuse_right, unsure} or null, left_out, trained_modules,
    reused_modules, evaluated_modules, seconds: {training, features, scores, truth, flow}, folder,
    run_id}. A matrix is a list of rows: one a source, with one number a target, both in the order
    of tasks; ranked and ranked_with_own are the numbers of tasks that the correlations are of.
    """
    wanted = _wanted(spec, dataset_fields(dataset, data, image_size, channels))
    with flow_running(verbose):
        from modkernel.flows.transfer_study import transfer_study

        result = transfer_study(wanted, None if output is None else str(output.resolve()))
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        _print(result)


def _wanted(spec: Path | None, fields: dict[str, object]) -> StudySpec:
    from modkernel.errors import SpecError
    from modkernel.flows.specs.read import read_spec, validated
    from modkernel.flows.study.spec import StudySpec
    from modkernel.spec import DatasetSpec

    if (spec is None) == (not fields):
        raise SpecError(
            "A study needs one thing to work on: give a SPEC.yaml such as "
            "examples/study_cifar10.yaml, or --data FOLDER, or --dataset NAME; a spec file names "
            "its data itself."
        )
    if spec is not None:
        return read_spec(spec, StudySpec)
    chosen: DatasetSpec = validated(DatasetSpec, fields, "option")
    name = chosen.name if chosen.path is None else Path(chosen.path).name
    study: StudySpec = validated(StudySpec, {"name": study_name(name), "dataset": chosen}, "option")
    return study


def study_name(data: str) -> str:
    """Name of the default study on a data set or folder: 'cifar10-study'."""
    import re

    return f"{re.sub(r'[^a-z0-9]+', '-', data.lower()).strip('-')}-study".lstrip("-")


def _print(result: StudyResult) -> None:
    from modkernel.flows.study.report import (
        HEAD,
        cost_rows,
        ranked_sentence,
        score_row,
        training_sentence,
        truth_sentence,
    )

    columns = [HEAD[0], *(f"{name} " for name in HEAD[1:])]
    fewer = ranked_sentence(result)
    print_table(
        f"{result.name}: how well scores rank the other tasks' modules, mean of "
        f"{len(result.tasks)} tasks{', or of fewer as told below' if fewer else ''}",
        columns,
        [score_row(score) for score in result.best_first],
    )
    for sentence in filter(None, (fewer, truth_sentence(result))):
        out.print(sentence, soft_wrap=True)
    out.print(training_sentence(result), soft_wrap=True)
    for name, reason in result.left_out.items():
        out.print(f"{name} is left out. {reason}", soft_wrap=True)
    print_table("", ("", "seconds ", "of training "), cost_rows(result.seconds))
    out.print(
        f"{result.trained_modules} modules trained, {result.reused_modules} reused. Heat maps, "
        f"trees of the tasks, results.json and scores.csv are in {result.folder}",
        soft_wrap=True,
    )
