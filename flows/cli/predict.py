"""`predict`: what a stored network says of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modkernel.flows.cli._answer_file import Write, answer_file, check_name
from modkernel.flows.cli._loaded import load
from modkernel.flows.cli._output import Json, err, out, percent, print_json, print_table
from modkernel.flows.cli._stored import AnyRef, stored

if TYPE_CHECKING:
    from modkernel.data.broken import Broken
    from modkernel.modules.network import Network
    from modkernel.reuse.answer import Answer
    from modkernel.reuse.moments import ModuleMoments


def predict(
    reference: AnyRef,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...",
            help="Image files, folders of them, or arrays with pictures as x; for a network on "
            "vectors, arrays or tables.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a row an example into this .csv or .parquet file instead."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Predict the class of each image, or of each row of tables or arrays, with a stored network.

    Images that cannot be read are listed on stderr; the others are predicted all the same, and the
    command fails in the end. Of a folder, files that are no images are told and left out.

    A file has the columns image, label, probability, distance (from the training data: around 1 is
    usual; empty where it is not known), and p_CLASS for each class.

    --json: a list of {image, label, probability, probabilities, distance}, of the images that can
    be read; a row is FILE:NUMBER, counted from 0. With --output: {file, predicted, unreadable}.
    """
    from modkernel.data.broken import unreadable

    if output is not None:
        check_name(output)
    with stored() as registry:
        loaded = load(registry, reference)
        moments = registry.moments.of_training(loaded.chain)
    if output is not None:
        with answer_file(output, loaded.network.classes or ()) as write:
            predicted, broken = answers_to(loaded.network, moments, files, write)
            if not predicted and broken:
                raise unreadable(broken)  # No file, then.
        if json:
            print_json({"file": str(output), "predicted": predicted, "unreadable": len(broken)})
        else:
            out.print(f"{output}: {predicted} predicted by {loaded.title}", soft_wrap=True)
    else:
        found: list[tuple[str, Answer]] = []
        _, broken = answers_to(
            loaded.network, moments, files, lambda *some: found.extend(zip(*some, strict=True))
        )
        _print(loaded.title, found, json)
    if broken:
        raise unreadable(broken)


def answers_to(
    network: Network, moments: ModuleMoments | None, files: Sequence[Path], write: Write
) -> tuple[int, list[Broken]]:
    """Predict files and folders in order, and write the answers batch by batch.

    Args:
        network: With an output module.
        moments: Of its last hidden module.
        files: As of `modkernel.data.inputs`.
        write: Is given names and answers.

    Returns:
        How many were predicted, and the images that cannot be read.

    Raises:
        DataError: a folder, table or file of arrays cannot be read, or does not go with the
            network.
        InterfaceError: the network has no output module, or takes other examples.
    """
    from modkernel.data.inputs import find_inputs, read_inputs
    from modkernel.reuse.answer import answering

    answer = answering(network, moments)
    takes = network.stored[0].spec.preprocessing
    found, findings = find_inputs(files, takes)
    for finding in findings:
        err.print(finding.text, soft_wrap=True)
    predicted = 0
    broken: list[Broken] = []
    with _bar(len(found)) as advance:
        for batch in read_inputs(found, takes):
            for finding in batch.findings:
                err.print(finding.text, soft_wrap=True)
            broken += batch.broken
            if batch.examples is not None:
                write(batch.names, answer(batch.examples))
                predicted += len(batch.names)
            advance(batch.files, predicted)
    return predicted, broken


@contextmanager
def _bar(files: int) -> Iterator[Callable[[float, int], None]]:
    """A bar on a terminal; elsewhere nothing."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[predicted]} predicted"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bars:
        task = bars.add_task("", total=files, predicted=0)
        yield lambda count, predicted: bars.update(task, advance=count, predicted=predicted)


def _print(title: str, found: Sequence[tuple[str, Answer]], json: bool) -> None:
    if json:
        answers: list[dict[str, Any]] = [{"image": name, **answer} for name, answer in found]
        print_json(answers)
    elif found:
        print_table(
            title,
            ("image", "class", "probability ", "distance "),
            [
                (name, one["label"], percent(one["probability"]), _far(one["distance"]))
                for name, one in found
            ],
        )


def _far(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.2f}"
