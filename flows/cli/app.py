"""All commands, put together. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from modkernel.flows.cli import (
    advise,
    bundle,
    compare,
    compose,
    data,
    delete,
    demo,
    deploy,
    export,
    import_network,
    labels,
    maintenance,
    modules,
    networks,
    predict,
    promote,
    retrain,
    schema,
    search,
    serve_network,
    servers,
    stitch,
    study,
    team,
    train,
)

app = typer.Typer(
    name="modkernel",
    help="Train networks module by module, store every module, assemble new networks from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
TRAINING, REUSE, UNATTENDED = "Train", "Reuse", "Run unattended"
STORED, MAINTENANCE = "Stored modules and networks", "Maintenance"
"""Headings of the commands in --help."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"modkernel {version('modkernel')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """What stands before a command."""
    # Names of files need be no Unicode, nor within what the terminal's encoding has.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


app.command(rich_help_panel=TRAINING)(demo.demo)
app.command(rich_help_panel=TRAINING)(train.train)
app.command("train-module", rich_help_panel=TRAINING)(train.train_module)
app.command(rich_help_panel=TRAINING)(compose.compose)
app.command(rich_help_panel=TRAINING)(train.baseline)
app.add_typer(data.data, name="data", rich_help_panel=TRAINING)

app.command(rich_help_panel=REUSE)(advise.advise)
app.add_typer(labels.labels, name="labels", rich_help_panel=REUSE)
app.command(rich_help_panel=REUSE)(retrain.retrain)
app.command(rich_help_panel=REUSE)(stitch.stitch)
app.command(rich_help_panel=REUSE)(search.search)
app.command(rich_help_panel=REUSE)(study.study)

app.command(rich_help_panel=UNATTENDED)(servers.up)
app.command(hidden=True)(servers.prepare_home)
app.command(rich_help_panel=UNATTENDED)(deploy.deploy)
app.command(rich_help_panel=UNATTENDED)(deploy.deployments)
app.command(rich_help_panel=UNATTENDED)(deploy.undeploy)
app.command(rich_help_panel=UNATTENDED)(servers.serve)
app.add_typer(team.team, name="team", rich_help_panel=UNATTENDED)
app.command(rich_help_panel=UNATTENDED)(team.worker)

for command in (
    *(compare.compare, compare.graph),
    *(promote.promote, promote.demote, promote.rollback, promote.history),
):
    modules.modules.command()(command)
networks.networks.command("promote")(promote.promote_network)
for command in (promote.demote, promote.rollback, promote.history):
    networks.networks.command()(command)
modules.modules.command("import")(import_network.import_network)
modules.modules.command("delete")(delete.delete_module)
networks.networks.command("delete")(delete.delete_network)
app.add_typer(modules.modules, name="modules", rich_help_panel=STORED)
app.add_typer(networks.networks, name="networks", rich_help_panel=STORED)
app.command(rich_help_panel=STORED)(predict.predict)
app.command(rich_help_panel=STORED)(export.export)
app.command(rich_help_panel=STORED)(serve_network.serve_network)
app.add_typer(bundle.bundle, name="bundle", rich_help_panel=STORED)
app.command(rich_help_panel=STORED)(bundle.push)
app.command(rich_help_panel=STORED)(bundle.pull)
app.command(rich_help_panel=STORED)(maintenance.verify)
app.command(rich_help_panel=STORED)(maintenance.repair)

app.command(rich_help_panel=MAINTENANCE)(delete.gc)
app.command(rich_help_panel=MAINTENANCE)(maintenance.doctor)
app.command(rich_help_panel=MAINTENANCE)(schema.schema)
