"""`advise`: which stored module to build on for a task, without training anything."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from modkernel.flows.cli._new_module import new_sentence
from modkernel.flows.cli._options import Channels, Classes, Data, ImageSize, dataset_fields
from modkernel.flows.cli._output import Json, out, percent, print_json, print_table
from modkernel.flows.cli._run_flow import Verbose, flow_running
from modkernel.flows.cli._together import print_together

if TYPE_CHECKING:
    from modkernel.data import DatasetInfo
    from modkernel.flows.measure_modules import NotMeasured
    from modkernel.registry import Advice, LeftOut, Ranked, Registry, Together
    from modkernel.reuse.task import Task
    from modkernel.spec import DatasetSpec

Row = TypeVar("Row", "Ranked", "LeftOut")

REASONS = {
    "interface": "made for other examples",
    "moments": "not measured on these data",
    "features": "without cached features of these data",
    "score": "without a score on these data",
}
"""Why modules are left out, after how many they are."""
TOO_MANY = (
    "Its features were measured again, but the cache does not hold them: raise "
    "MODKERNEL_FEATURE_CACHE_BYTES."
)
FITTED = (
    "A module that was trained on some of these examples is scored on what it was fitted to, which "
    "flatters it."
)


def advise(
    dataset: Annotated[
        str | None, typer.Option(help="Data set of the task: digits, cifar10, image_folder, …")
    ] = None,
    data: Data = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    score: Annotated[
        str | None, typer.Option(help="Score to rank by; the best one known if left out.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Modules to show and to look at closely.")] = 10,
    together: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Also choose up to K modules to join; what each brings.",
        ),
    ] = None,
    stored_only: Annotated[
        bool, typer.Option("--stored-only", help="Measure no module: rank those that are measured.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Rank the stored modules by how good they are to build on for a task. Nothing is trained.

    A module that has not been measured on the data yet is passed through once, and its moments
    are stored: they answer for every choice and grouping of the classes. That a module was trained
    on the task itself, or on some of these examples, is shown where it is known: of the whole data
    set by its content, of some of its classes by its name, so not of a part of a folder or file.

    --json: {task: {groups: [[side, [class, ...]], ...]}, dataset, fingerprint, score,
    ranked: [{module, score, interval, accuracy, balanced_accuracy, knn, worst_class, reason,
    message, own, seen, fitted}], left_out:
    [{module, reason, message}], together, new}, all of them, best first; a module as of 'modules
    list'. together is null without --together, and where modules cannot be joined (the exit
    status is 1 then, and why is told), else {task, dataset, fingerprint, score, steps:
    [{module, balanced_accuracy, gain, gain_error, explained, brings, score, features, parameters,
    multiply_adds, seconds}], refused: null or such a step, candidates, examples, of_examples,
    judging, seconds, left_out}. new is what a module trained for the task would probably give:
    {verdict: train, reuse or unsure, reached, tasks, recipe, same_data, balanced_accuracy,
    interval, seconds, seconds_interval, probability}.
    """
    from modkernel.errors import ScoreError, SpecError
    from modkernel.flows.specs.read import validated
    from modkernel.reuse.scores import DEFAULT_SCORE
    from modkernel.spec import DatasetSpec

    fields = dataset_fields(dataset, data, image_size, channels)
    if not fields.get("name"):
        raise SpecError(
            "The data of the task are not named: give --dataset NAME, or --data FOLDER."
        )
    base: DatasetSpec = validated(DatasetSpec, fields, "option")
    asked = _asked(base, classes)
    score = score or DEFAULT_SCORE

    def rank() -> Advice:
        return asked.registry.advice.rank(asked.task, asked.info, score, top=top)

    advice = rank()
    if not stored_only:
        advice = _measured(advice, base, rank, verbose)
    joined, refused = None, None
    if together is not None:
        if not stored_only:
            _measure(base, asked.registry.advice.without_features(asked.info), verbose)
        try:
            joined = asked.registry.advice.together(asked.task, asked.info, together, score)
        except ScoreError as error:
            refused = error  # Told in the end: the ranking of one module each holds all the same.
    new = asked.registry.advice.new_module(asked.task, asked.info, _reached(advice, joined))
    if json:
        found = None if joined is None else joined.model_dump(mode="json")
        more = {"together": found, "new": new.model_dump(mode="json")}
        print_json(advice.model_dump(mode="json") | more)
        if refused is not None:
            raise refused
        return
    options = {
        "dataset": dataset,
        "data": data,
        "image-size": image_size,
        "channels": channels,
        "classes": classes,
    }
    _print(advice, top)
    out.print(new_sentence(new), soft_wrap=True)
    if joined is None:
        _print_next(advice, options)
    else:
        print_together(joined, options)
    if refused is not None:
        raise refused


def _reached(advice: Advice, joined: Together | None) -> float | None:
    """The balanced accuracy that reuse promises."""
    if joined is not None:
        return joined.steps[-1].balanced_accuracy
    return advice.ranked[0].balanced_accuracy if advice.ranked else None


class _Asked(NamedTuple):
    """What is asked of the registry."""

    registry: Registry
    task: Task
    info: DatasetInfo


def _asked(base: DatasetSpec, classes: str | None) -> _Asked:
    """The task, on data that allow it.

    Raises:
        ClassError: --classes cannot be read.
        DataError: the data are missing, unfit or without class labels.
    """
    from modkernel.data import describe_dataset
    from modkernel.flows.plans.checks import check_labelled
    from modkernel.flows.runtime.shared import open_registry
    from modkernel.reuse.task import Task, parse_task

    task = None if classes is None else parse_task(classes)
    registry = open_registry()
    info = describe_dataset(base, registry.settings.places)
    check_labelled(info, "so no module can be scored on it")
    chosen = task or Task.of_classes(info.classes)
    return _Asked(registry, chosen, info)


def _measured(
    advice: Advice, base: DatasetSpec, rank: Callable[[], Advice], verbose: bool
) -> Advice:
    """The advice once all modules are measured that can be, with a reason for the others.

    Args:
        advice: by the moments that there were.
        base: the data to measure on.
        rank: ranks again.
        verbose: show Prefect's log.
    """
    reasons: dict[str, str] = {}
    # The second time for those that are ranked, or would be, but whose features are no longer in
    # the cache.
    for features in (False, True):
        lack = "features" if features else "moments"
        rows: tuple[Ranked | LeftOut, ...] = (*advice.ranked, *advice.left_out)
        wanted = tuple(one.module.id for one in rows if one.reason == lack)
        if wanted:
            left_out = _measure(base, wanted, verbose, features)
            reasons |= dict.fromkeys(wanted, TOO_MANY) if features else {}
            reasons |= {one.module_id: one.reason for one in left_out}
            advice = rank()
    return advice.model_copy(
        update={
            "ranked": _explained(advice.ranked, reasons),
            "left_out": _explained(advice.left_out, reasons),
        }
    )


def _measure(
    base: DatasetSpec, modules: tuple[str, ...], verbose: bool, features: bool = True
) -> tuple[NotMeasured, ...]:
    """Have modules measured; those that could not be, and why."""
    if not modules:
        return ()
    with flow_running(verbose):
        from modkernel.flows.measure_modules import measure_modules

        return measure_modules(base, modules, features).left_out


def _explained(rows: Sequence[Row], reasons: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows that lack something say why it could not be measured, in place of how to measure it."""
    return tuple(
        one.model_copy(update={"message": reasons.get(one.module.id, one.message)})
        if one.reason in ("moments", "features")
        else one
        for one in rows
    )


def _print(advice: Advice, top: int) -> None:
    """The best modules, and which were left out."""
    shown = advice.ranked[:top]
    columns = {
        "rank ": [str(rank) for rank in range(1, len(shown) + 1)],
        "module": [f"{one.module.name}/{one.module.version}" for one in shown],
        f"{advice.score} ": [f"{one.score:.4f}" for one in shown],
        "5 % … 95 % ": [
            f"{one.interval[0]:.4f} … {one.interval[1]:.4f}" if one.interval else ""
            for one in shown
        ],
        "expected accuracy ": [percent(one.accuracy) for one in shown],
        "balanced ": [percent(one.balanced_accuracy) for one in shown],
        "kNN ": [percent(one.knn) for one in shown],
        "worst class": ["" if one.worst_class is None else one.worst_class.text for one in shown],
        "": [_known(one) for one in shown],
    }
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    if shown:
        sides = ", ".join(
            side if members == (side,) else f"{side} ({', '.join(members)})"
            for side, members in advice.task.groups.items()
        )
        print_table(
            f"To build on for {advice.dataset}: {sides}",
            tuple(filled),
            zip(*filled.values(), strict=True),
            dropped_first=[head for head in ("balanced ",) if head in filled],
        )
    else:
        out.print("No stored module can be ranked for this task.")
    if any(one.fitted for one in shown):
        out.print(FITTED, soft_wrap=True)
    for one in shown:
        if one.seen and one.accuracy is not None:
            text = f"{one.module.name}/{one.module.version} was trained on {one.seen} of the "
            out.print(f"{text}held-out examples: its accuracy leaves them out.", soft_wrap=True)
    if len(advice.ranked) > len(shown):
        out.print(f"{len(advice.ranked) - len(shown)} more are ranked below: see --top and --json.")
    why = [one.message for one in shown if one.accuracy is None and one.message is not None]
    if why:
        out.print(f"Without an expected accuracy: {_modules(len(why))}. {why[0]}", soft_wrap=True)
    for reason, count in Counter(one.reason for one in advice.left_out).items():
        example = next(one.message for one in advice.left_out if one.reason == reason)
        out.print(f"Left out: {_modules(count)} {REASONS[reason]}. {example}", soft_wrap=True)


def _print_next(advice: Advice, options: Mapping[str, object]) -> None:
    """What to type next."""
    if advice.ranked:
        best = advice.ranked[0].module
        words = ["modkernel", "compose", f"{best.name}/{best.version}"]
        for name, value in options.items():
            if value is not None:
                words += [f"--{name}", str(value)]
        out.print(f"Next: {shlex.join(words)}", soft_wrap=True)
    else:
        out.print("Next: train one, such as 'modkernel train SPEC.yaml'.", soft_wrap=True)


def _known(one: Ranked) -> str:
    if one.own:
        return "trained on this task"
    return "trained on some of these examples" if one.fitted else ""


def _modules(count: int) -> str:
    return "1 module" if count == 1 else f"{count} modules"
