"""`networks`: what networks are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modkernel.flows.cli._output import Json, out, percent, print_json, print_table
from modkernel.flows.cli._run_flow import print_remarks, print_unjudged
from modkernel.flows.cli._stored import MADE, NEWEST, Limit, NetworkRef, catalogue, print_records

if TYPE_CHECKING:
    from modkernel.registry import NetworkRecord

networks = typer.Typer(help="List and show stored networks.", no_args_is_help=True)

NAMED = 5
"""How many of the networks that share a module are named."""
DROPPED_FIRST = (
    *("all labels ", "mean of draws ", "labels ", "worst class", MADE, "modules ", "balanced "),
)


@networks.command("list")
def list_networks(limit: Limit = NEWEST, json: Json = False) -> None:
    """List the newest stored networks, the newest last.

    What 'baseline' trains is none of them: it is a run of MLflow.

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
            MADE,
        ),
        [_network_row(record) for record in records],
        DROPPED_FIRST,
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
    title = f"{record.name} ({record.short_id})"
    print_records(chain, title=title, accuracies=registry.accuracies(chain))
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
            f"worst class {value.worst_class.text} · with {value.labels_name}, "
            f"{value.draws} draw(s): mean {percent(value.accuracy_mean)}, "
            f"least {percent(value.accuracy_min)} · "
            f"with all labels {percent(value.accuracy_all_labels)}, "
            f"balanced {percent(value.balanced_accuracy_all_labels)}",
            soft_wrap=True,
        )
        print_remarks(value)
    elif chain and chain[-1].kind == "output":
        print_unjudged(registry.labels_told(chain[-1]))


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
