"""`modules compare`, `modules graph`: stored modules beside one another, and on one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modkernel.flows.cli._output import Json, err, percent, print_json, print_table, write_output
from modkernel.flows.cli._stored import MADE, catalogue, complete_modules, stored


def compare(
    modules: Annotated[
        list[str],
        typer.Argument(metavar="MODULE...", autocompletion=complete_modules, help="Two or more."),
    ],
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw their objectives by epoch.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what differs between stored modules: how they were made, and how they did.

    --json: {what: [a value for each module]}, of what differs.
    """
    from modkernel.registry import Catalogue
    from modkernel.registry.tracking.fields import parameters_of

    if len(modules) < 2:
        raise typer.BadParameter("name two modules or more", param_hint="MODULE...")
    registry = stored()
    records = [registry.modules.resolve(module) for module in modules]
    names = [f"{record.name}/{record.version}" for record in records]
    accuracies = Catalogue(registry.settings, registry.backends.database).accuracies(tuple(records))
    facts = [
        {
            **parameters_of(record.spec),
            "classes": ", ".join(record.spec.classes or record.spec.dataset.classes),
            MADE: f"{record.created_at:%Y-%m-%d %H:%M}",
            "seconds": f"{record.seconds:.1f}",
            "accuracy": percent(accuracies.get(record.id)),
            **{name: f"{value:.4g}" for name, value in record.metrics.items()},
        }
        for record in records
    ]
    keys = dict.fromkeys(key for one in facts for key in one)
    different = {
        key: values for key in keys if len({*(values := [one.get(key, "") for one in facts])}) > 1
    }
    if json:
        print_json(different)
    elif different:
        rows = [(key, *values) for key, values in different.items()]
        print_table("What differs", ("", *names), rows)
    else:
        err.print("They differ in nothing but their weights.")
    if picture is not None:
        from modkernel.flows.display.figures import objectives_figure

        reports = [registry.modules.report(record) for record in records]
        drawn = objectives_figure(list(zip(names, reports, strict=True)))
        write_output(picture, drawn, "--picture")
        err.print(f"Drawn in {picture}.")


def graph(
    output: Annotated[Path, typer.Argument(metavar="FILE.svg", help="Where the drawing goes.")],
    module: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="MODULE",
            autocompletion=complete_modules,
            help="Only what this one stands on, and what stands on it.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most: those made last.")] = 1000,
) -> None:
    """Draw which stored modules stand on which, and the networks at their ends."""
    from modkernel.flows.display.lineage import lineage_svg
    from modkernel.registry import ModuleQuery

    found = catalogue()
    if module is None:
        modules = found.modules(ModuleQuery(), newest=limit)
        networks = found.networks()
    else:
        record = found.module(module)
        ready = tuple(one for one in found.standing_on(record) if one.state == "READY")
        modules = (*found.chain(record), *ready)
        networks = found.networks_with(record)
    svg = lineage_svg(modules, networks, found.accuracies(modules))
    write_output(output, svg.encode(errors="replace"), "FILE.svg")
    err.print(f"Drawn in {output}: {len(modules)} modules.")
