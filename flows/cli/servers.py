"""`up`, `serve`, `doctor`, `schema`: the servers, the health of the installation, the schema."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from modkernel.flows.cli._output import Json, err, out, print_json

STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}


def up() -> None:
    """Start MLflow's and Prefect's servers and serve all deployments, until Ctrl-C.

    Both listen on this machine only. Ports: MODKERNEL_MLFLOW_PORT and MODKERNEL_PREFECT_PORT.
    """
    from modkernel.flows.servers.up import up as run_up
    from modkernel.registry import Settings

    run_up(Settings(), lambda line: err.print(line, soft_wrap=True))


def serve() -> None:
    """Serve all deployments to the Prefect server of PREFECT_API_URL, until stopped."""
    from modkernel.errors import SettingsError
    from modkernel.flows.servers.prefect_env import prepare_prefect, require_prefect
    from modkernel.registry import Settings

    prepare_prefect(Settings())
    if "PREFECT_API_URL" not in os.environ:
        raise SettingsError(
            "There is no Prefect server to serve to: set PREFECT_API_URL to one, or use "
            "'modkernel up', which starts one and serves to it."
        )
    require_prefect()
    from modkernel.flows.deployments import serve_all

    serve_all()


def doctor(
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Bring both databases to the installed schema first.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what is installed and reachable, what is wrong and how to mend it; exit 1 if wrong.

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


def schema(
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file instead of stdout.")
    ] = None,
) -> None:
    """Print the JSON schema of spec files, for editors."""
    from modkernel.errors import SettingsError
    from modkernel.spec import NetworkSpec

    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **NetworkSpec.model_json_schema(),
    }
    text = json_module.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"Cannot write {output}: {error.strerror}. Give another --output."
            ) from None
