"""All commands, put together. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import typer

from flows.cli import advise, compose, labels, retrain, run, search, service, stored, study

app = typer.Typer(
    name="modkernel",
    help="Train networks module by module, store every module, assemble new networks from them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
TRAINING, REUSE = "Train", "Reuse"
STORED, HOUSE = "Stored modules and networks", "House"

app.command(rich_help_panel=TRAINING)(run.demo)
app.command(rich_help_panel=TRAINING)(run.train)
app.command("train-module", rich_help_panel=TRAINING)(run.train_module)
app.command(rich_help_panel=TRAINING)(compose.compose)
app.command(rich_help_panel=TRAINING)(run.baseline)

app.command(rich_help_panel=REUSE)(advise.advise)
app.add_typer(labels.labels, name="labels", rich_help_panel=REUSE)
app.command(rich_help_panel=REUSE)(retrain.retrain)
app.command(rich_help_panel=REUSE)(search.search)
app.command(rich_help_panel=REUSE)(study.study)

app.add_typer(stored.modules, name="modules", rich_help_panel=STORED)
app.add_typer(stored.networks, name="networks", rich_help_panel=STORED)
app.command(rich_help_panel=STORED)(stored.predict)
app.command(rich_help_panel=STORED)(stored.verify)
app.command(rich_help_panel=STORED)(stored.repair)

app.command(rich_help_panel=HOUSE)(service.up)
app.command(rich_help_panel=HOUSE)(service.serve)
app.command(rich_help_panel=HOUSE)(service.doctor)
app.command(rich_help_panel=HOUSE)(service.schema)
