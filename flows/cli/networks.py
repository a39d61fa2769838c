"""`networks`, `predict`: what networks are stored, and using one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modkernel.flows.cli._output import Json, out, percent, print_json, print_table
from modkernel.flows.cli._run_flow import print_remarks
from modkernel.flows.cli._stored import NEWEST, Limit, NetworkRef, catalogue, print_records, stored

if TYPE_CHECKING:
    from modkernel.data.broken import Broken
    from modkernel.modules.network import Network
    from modkernel.registry import NetworkRecord

networks = typer.Typer(help="List and show stored networks.", no_args_is_help=True)

NAMED = 5
"""How many of the networks that share a module are named."""
DROPPED_FIRST = (
    *("all labels ", "mean of draws ", "labels ", "worst class", "made", "modules ", "balanced "),
)
BATCH = 256
"""Images that are read and predicted at once."""


@networks.command("list")
def list_networks(limit: Limit = NEWEST, json: Json = False) -> None:
    """List the newest stored networks, the newest last.

    --json: a list of {id, name, module_ids, created_at, run_id, evaluation, spec}.
    """
    records = catalogue().networks(newest=limit)
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_table(
        "Networks",
        (
            "name",
            "id",
            "modules ",
            "labels ",
            "accuracy ",
            "balanced ",
            "worst class",
            "mean of draws ",
            "all labels ",
            "made",
        ),
        [_network_row(record) for record in records],
        (
            "all labels ",
            "mean of draws ",
            "labels ",
            "worst class",
            "made",
            "modules ",
            "balanced ",
        ),
    )


@networks.command("show")
def show_network(network: NetworkRef, json: Json = False) -> None:
    """Show one network: its modules in order, which others share them, and how it was evaluated.

    --json: one object as of 'networks list', modules: a list as of 'modules list', and shared:
    for each module a list of the ids of the other networks that have it.
    """
    registry = catalogue()
    record = registry.network(network)
    chain = registry.members(record)
    sharing = registry.sharing(record)
    if json:
        print_json(
            record.model_dump(mode="json")
            | {
                "modules": [module.model_dump(mode="json") for module in chain],
                "shared": [[other.id for other in sharing[module.id]] for module in chain],
            }
        )
        return
    print_records(chain, title=f"{record.name} ({record.short_id})")
    for module in chain:
        others = [f"{other.name} ({other.short_id})" for other in sharing[module.id]]
        if others:
            shown = ", ".join(others[-NAMED:])
            more = f" and {len(others) - NAMED} older" if len(others) > NAMED else ""
            out.print(f"{module.name}/{module.version} is shared with {shown}{more}")
    if record.evaluation is not None:
        value = record.evaluation
        out.print(
            f"accuracy {percent(value.accuracy)}, balanced {percent(value.balanced_accuracy)}, "
            f"worst class {value.worst_class.text} · with {value.labels} labels, "
            f"{value.draws} draw(s): mean {percent(value.accuracy_mean)}, "
            f"least {percent(value.accuracy_min)} · "
            f"with all labels {percent(value.accuracy_all_labels)}, "
            f"balanced {percent(value.balanced_accuracy_all_labels)}",
            soft_wrap=True,
        )
        print_remarks(value)


def predict(
    network: NetworkRef,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...", help="Image files; for a network on vectors, tables or arrays."
        ),
    ],
    json: Json = False,
) -> None:
    """Predict the class of each image, or of each row of tables or arrays, with a stored network.

    Images that cannot be read are listed on stderr; the others are predicted all the same, and the
    command fails in the end.

    --json: a list of {image, label, probability, probabilities}, of the images that can be read;
    a row is FILE:NUMBER, counted from 0.
    """
    from modkernel.data.broken import unreadable

    registry = stored()
    loaded = registry.networks.load(registry.networks.resolve(network))
    vectors = len(loaded.stored[0].spec.preprocessing.shape) == 1
    predictions, broken = (predict_rows if vectors else predict_images)(loaded, images)
    if json:
        print_json(predictions)
    elif predictions:
        print_table(
            network,
            ("image", "class", "probability "),
            [(one["image"], one["label"], percent(one["probability"])) for one in predictions],
        )
    if broken:
        raise unreadable(broken)


def predict_images(
    network: Network, images: Sequence[Path]
) -> tuple[list[dict[str, Any]], list[Broken]]:
    """Predict images in order, each converted and resized as an image folder's are.

    Returns:
        {image, label: the most probable class, probability: of that class, probabilities: of every
        class} of each that can be read, and those that cannot be.

    Raises:
        InterfaceError: the network has no output module, or does not take images.
    """
    import torch

    from modkernel.data.broken import Broken
    from modkernel.data.images import check_image_shape, decode_each

    _check_predicts(network)
    takes = network.stored[0].spec.preprocessing
    check_image_shape(takes.shape)
    found: list[dict[str, Any]] = []
    broken: list[Broken] = []
    for start in range(0, len(images), BATCH):
        decoded = zip(
            images[start : start + BATCH],
            decode_each(images[start : start + BATCH], takes.shape, takes.reading),
            strict=True,
        )
        read = []
        for path, image in decoded:
            if isinstance(image, Broken):
                broken.append(image)
            else:
                read.append((path, image))
        if not read:
            continue
        rows = network.predict(torch.stack([image for _, image in read])).tolist()
        found += [
            _answer(network, str(path), row) for (path, _), row in zip(read, rows, strict=True)
        ]
    return found, broken


def predict_rows(
    network: Network, files: Sequence[Path]
) -> tuple[list[dict[str, Any]], list[Broken]]:
    """Predict the rows of tables or arrays in order; as `predict_images`.

    Raises:
        DataError: a file cannot be read, or does not go with the network.
        InterfaceError: the network has no output module, or takes other columns.
    """
    from modkernel.data import read_rows

    _check_predicts(network)
    found: list[dict[str, Any]] = []
    for file in files:
        examples, findings = read_rows(file, network.stored[0].spec.preprocessing)
        for finding in findings:
            typer.echo(finding.text, err=True)
        rows = [row for batch in examples.split(BATCH) for row in network.predict(batch).tolist()]
        found += [_answer(network, f"{file}:{i}", row) for i, row in enumerate(rows)]
    return found, []


def _check_predicts(network: Network) -> None:
    from modkernel.errors import InterfaceError

    if network.classes is None:
        raise InterfaceError(
            "This network has no output module: train one on it with 'modkernel compose'."
        )


def _answer(network: Network, name: str, row: Sequence[float]) -> dict[str, Any]:
    probabilities = dict(zip(network.classes or (), row, strict=True))
    label = max(probabilities, key=probabilities.__getitem__)
    return {
        "image": name,
        "label": label,
        "probability": probabilities[label],
        "probabilities": probabilities,
    }


def _network_row(record: NetworkRecord) -> tuple[str, ...]:
    value = record.evaluation
    figures = (
        ("",) * 6
        if value is None
        else (
            str(value.labels),
            percent(value.accuracy),
            percent(value.balanced_accuracy),
            value.worst_class.text,
            percent(value.accuracy_mean),
            percent(value.accuracy_all_labels),
        )
    )
    made = f"{record.created_at:%Y-%m-%d %H:%M}"
    return (record.name, record.short_id, str(len(record.module_ids)), *figures, made)
