"""`search`: the best modules for each stage of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modkernel.flows.cli._output import Json, out, print_json, print_table
from modkernel.flows.cli._run_flow import Verbose, flow_running, print_network


def search(
    spec: Annotated[
        Path,
        typer.Argument(metavar="SPEC.yaml", help="A search's spec file; see examples/search_*."),
    ],
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try several modules for each stage of a network, and make a network of the best ones.

    Every candidate is stored and reused: a second call trains only those that failed.

    --json: {name, score, beam, candidates: [{stage, candidate, description, stands_on,
    module (as of 'train'), score, kept, error}], network (as of 'train'), trained_modules,
    reused_modules, training_seconds, networks, networks_seconds, seconds}. The numbers of modules
    count the output module; training_seconds and networks_seconds are without its seconds.
    """
    from modkernel.flows.search.spec import SearchSpec
    from modkernel.flows.specs.read import read_spec

    wanted = read_spec(spec, SearchSpec)
    with flow_running(verbose):
        from modkernel.flows.search.report import columns_of, cost_sentence
        from modkernel.flows.search_modules import search_modules

        result = search_modules(wanted)
    if json:
        print_json(result.model_dump(mode="json"))
        return
    columns = columns_of(result)
    print_table(result.name, tuple(columns), zip(*columns.values(), strict=True))
    for row in result.candidates:
        if row.error is not None:
            out.print(f"Stage {row.stage}, {row.description}: {row.error}", soft_wrap=True)
    print_network(result.network)
    out.print(cost_sentence(result), soft_wrap=True)
