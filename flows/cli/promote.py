"""`promote`, `demote`, `rollback`, `history` of modules and networks: who moved which alias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import Json, err, print_json, print_table
from modkernel.flows.cli._stored import ModuleRef, NetworkRef, stored

if TYPE_CHECKING:
    from modkernel.registry.records import PromotionRecord

Alias = Annotated[
    str, typer.Argument(metavar="ALIAS", help="Such as 'production'; MLflow shows it as @ALIAS.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the module or the network.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the history.")]


def promote(module: ModuleRef, alias: Alias, reason: Reason = None, json: Json = False) -> None:
    """Give a stored module an alias, which another version of it loses.

    --json: {name, alias, version, module_id, before, who, reason, seen_at}.
    """
    registry = stored()
    record = registry.modules.resolve(module)
    assert record.version is not None, "what is ready has a version"
    _show(registry.promotions.promote(record.name, alias, record.version, reason), json)


def promote_network(
    network: NetworkRef, alias: Alias, reason: Reason = None, json: Json = False
) -> None:
    """Give a stored network an alias, which another version of it loses.

    --json: as of 'modules promote'; module_id is the network's id.
    """
    registry = stored()
    record = registry.networks.resolve(network)
    if record.version is None:
        record = registry.networks.add(record.name, record.module_ids)
    assert record.version is not None, "what was added has a version"
    _show(registry.promotions.promote(record.name, alias, record.version, reason), json)


def demote(name: Name, alias: Alias, reason: Reason = None, json: Json = False) -> None:
    """Take an alias away from whichever version has it.

    --json: as of 'modules promote'.
    """
    _show(stored().promotions.demote(name, alias, reason), json)


def rollback(name: Name, alias: Alias, reason: Reason = None, json: Json = False) -> None:
    """Give an alias back to the version that had it before.

    --json: as of 'modules promote'.
    """
    _show(stored().promotions.rollback(name, alias, reason), json)


def history(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Of the module or the network; all if left out."),
    ] = None,
    json: Json = False,
) -> None:
    """Show which version each alias meant when, who moved it, and why; the newest last.

    An alias that was moved on MLflow's page has nobody's name: MLflow does not tell it.

    --json: a list as of 'modules promote'.
    """
    registry = stored()
    registry.promotions.sync(None if name is None else {name})
    found = registry.promotions.history(name)
    if json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    print_table(
        "Promotions",
        ("alias", "from ", "to ", "who", "why", "when (UTC)"),
        [
            (
                f"{one.name}@{one.alias}",
                str(one.before or "—"),
                str(one.version or "—"),
                one.who or "in MLflow",
                one.reason or "",
                f"{one.seen_at:%Y-%m-%d %H:%M}",
            )
            for one in found
        ],
        ("when (UTC)", "who"),
    )


def _show(moved: PromotionRecord, json: bool) -> None:
    if json:
        print_json(moved.model_dump(mode="json"))
        return
    now = "nothing" if moved.version is None else f"version {moved.version}"
    before = "nothing" if moved.before is None else f"version {moved.before}"
    err.print(f"{moved.name}@{moved.alias} means {now} now; before, {before}.")
