"""`verify`, `repair`, `doctor`: is what is stored whole, and the installation healthy?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from modkernel.flows.cli._output import Json, err, out, print_json
from modkernel.flows.cli._stored import stored

if TYPE_CHECKING:
    from modkernel.registry import Registry

STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}
"""Colour of each status of a finding."""


def verify(json: Json = False) -> None:
    """Check that every stored module is whole; exit 1 if one is not.

    What is deleted in MLflow, and 'mlflow gc' has not taken yet, is named too.

    --json: a list of {kind, module_id, name, message}; no module_id where it is a network.
    """
    registry = stored()
    problems = registry.verify()
    if json:
        print_json([problem.model_dump(mode="json") for problem in problems])
    for problem in problems:
        err.print(f"{problem.kind} {problem.name}: {problem.message}", style="red")
    at_work = _tell_who_is_at_work(registry)
    if problems:
        raise typer.Exit(1)
    err.print(f"Every {'other ' if at_work else ''}stored module is whole.")


def repair(json: Json = False) -> None:
    """Finish or undo what an interrupted run left half-stored; restore what was deleted in MLflow.

    What cannot be read or repaired now is named, and all else is done; exit 1 then.

    --json: a list of {kind, module_id, name, message}.
    """
    registry = stored()
    actions = registry.repair()
    if json:
        print_json([action.model_dump(mode="json") for action in actions])
    for action in actions:
        style = "red" if action.kind == "failed" else None
        err.print(f"{action.kind} {action.name}: {action.message}", style=style)
    at_work = _tell_who_is_at_work(registry)
    if any(action.kind == "failed" for action in actions):
        raise typer.Exit(1)
    if not actions:
        err.print(f"There was nothing {'else ' if at_work else ''}to repair.")


def _tell_who_is_at_work(registry: Registry) -> bool:
    """Tell of what `verify` and `repair` leave alone, since another process has it in hand."""
    found = registry.at_work()
    for sentence in found:
        err.print(sentence, style="yellow")
    return bool(found)


def doctor(
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring both databases to the installed schema first.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what is installed and reachable, what is wrong and how to fix it; exit 1 if wrong.

    --json: a list of {check, status: ok|note|wrong, found, remedy}.
    """
    from modkernel.flows.servers import doctor as examination
    from modkernel.registry import Settings

    settings = Settings()
    if upgrade:
        for line in examination.upgrade(settings):
            err.print(line)
    findings = examination.examine(settings)
    if json:
        print_json([finding.model_dump() for finding in findings])
    else:
        for finding in findings:
            status = (f"{finding.status:<6}", STYLES[finding.status])
            out.print(Text.assemble(status, f"{finding.check:<13}", finding.found), soft_wrap=True)
            if finding.remedy:
                out.print(f"{'':<19}→ {finding.remedy}", soft_wrap=True)
    if any(finding.status == "wrong" for finding in findings):
        raise typer.Exit(1)
