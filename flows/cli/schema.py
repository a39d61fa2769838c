"""`schema`: the JSON schema of spec files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from modkernel.flows.cli._output import write_output


def schema(
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file instead of stdout.")
    ] = None,
) -> None:
    """Print the JSON schema of spec files, for editors."""
    from modkernel.spec import NetworkSpec
    from modkernel.spec.shorthand import MOST_MODULES

    fields = NetworkSpec.model_json_schema()
    hidden = fields["properties"]["hidden"]
    # A form takes the list alone: Prefect's page would show one tab for it and one for a number.
    listed = {name: hidden.pop(name) for name in ("type", "items", "minItems")}
    hidden["anyOf"] = [listed, {"type": "integer", "minimum": 1, "maximum": MOST_MODULES}]
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **fields,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_output(output, text.encode(), "--output")
