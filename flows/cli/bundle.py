"""`bundle`: modules and networks as files, from one registry to another."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._output import (
    Json,
    brought_in,
    err,
    out,
    print_json,
    print_table,
    size,
    told_if_interrupted,
)
from modkernel.flows.cli._stored import AnyRef, stored

if TYPE_CHECKING:
    from modkernel.registry.bundles.signing import PrivateKey
    from modkernel.registry.bundles.take_in import Imported

bundle = typer.Typer(
    help="Write modules and networks into files, and take them in.", no_args_is_help=True
)


STORED = "what is stored by now stays, and the same command stores the rest."
"""What to know where an import or a pull was interrupted."""
PUSHED = "no bundle is left half-written in {folder}, and the same command does the rest."
"""Likewise, a push."""


class Form(StrEnum):
    """What a network is written as."""

    BUNDLE = "bundle"
    HUGGINGFACE = "huggingface"


Sign = Annotated[
    Path | None,
    typer.Option(
        metavar="KEYFILE", help="Sign it with this ed25519 key, as 'bundle key' or ssh-keygen made."
    ),
]


@bundle.command("export")
def export(
    reference: AnyRef,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The file to write, such as net.mkb; or folder.")
    ],
    form: Annotated[
        Form,
        typer.Option(
            help="bundle: a file that 'bundle import' takes; huggingface: a folder with "
            "model.safetensors, config.json and a model card."
        ),
    ] = Form.BUNDLE,
    sign: Sign = None,
    json: Json = False,
) -> None:
    """Write a module or a network, with all modules that it stands on, into one file or folder.

    --json: {id, name, modules: ids from the first to the last, path, size_bytes}.
    """
    from modkernel.registry.bundles.write import chain_of, export_bundle, resolve

    key, registry = key_in(sign), stored()
    found = resolve(registry, reference)
    if form is Form.BUNDLE:
        export_bundle(registry, found.id, path, key)
    elif key is None:
        from modkernel.registry.bundles.huggingface import export_huggingface

        export_huggingface(registry, found.id, path)
    else:
        raise typer.BadParameter("only a bundle is signed", param_hint="--sign")
    ids = [record.id for record in chain_of(registry, found)]
    written = sum(file.stat().st_size for file in (path, *path.glob("*")) if file.is_file())
    if json:
        facts = {"id": found.id, "name": found.name, "modules": ids}
        print_json(facts | {"path": str(path), "size_bytes": written})
        return
    out.print(
        f"{path}: {found.name} ({found.short_id}), {len(ids)} modules, {size(written)}",
        soft_wrap=True,
    )


@bundle.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As 'bundle export' wrote it.")],
    json: Json = False,
) -> None:
    """Store all of a bundle that is not stored yet, once everything in it is checked.

    --json: {id, name, modules: a list of {id, name, version, new}, moments: how many are new,
    network: its id or null, network_is_new, signer: a key's fingerprint or null}.
    """
    with told_if_interrupted(STORED):
        from modkernel.registry.bundles.take_in import import_bundle

        found = import_bundle(stored(), file)
    show_imported(found, json)


@bundle.command("key")
def make_key(
    path: Annotated[
        Path, typer.Argument(metavar="KEYFILE", help="A new file; KEYFILE.pub is made beside it.")
    ],
    json: Json = False,
) -> None:
    """Make a key to sign bundles with; its public half is for the others' MODKERNEL_TRUSTED_KEYS.

    --json: {public_key, fingerprint}.
    """
    from modkernel.registry.bundles import signing

    public = signing.make_key(path)
    if json:
        print_json({"public_key": public, "fingerprint": signing.fingerprint_of(public)})
        return
    out.print(public, soft_wrap=True)
    err.print(f"{path} is the private half: keep it. {path}.pub has the line above to hand out.")


def push(
    context: typer.Context,
    reference: AnyRef,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder of bundles, made if there is none.")
    ],
    sign: Sign = None,
    json: Json = False,
) -> None:
    """Put a module or a network, with all that it stands on, into a folder that others pull from.

    By your umask others may read what it writes there.

    --json: {id, name, file, new}.
    """
    with told_if_interrupted(PUSHED.format(folder=folder)):
        from modkernel.registry.bundles import exchange

        found = exchange.push(stored(), reference, folder, key_in(sign), context.obj)
    if json:
        manifest = found.manifest
        facts = {"id": manifest.id, "name": manifest.name, "file": str(found.path)}
        print_json(facts | {"new": found.is_new})
        return
    out.print(f"{found.path}: {found.manifest.what}, {_new(found.is_new)}", soft_wrap=True)


def pull(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="A name (what was pushed last), an id or first digits of an id."
        ),
    ],
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|URL", help="Where others pushed, or its web address.")
    ],
    json: Json = False,
) -> None:
    """Store a module or a network out of a folder that others pushed to.

    --json: as of 'bundle import'.
    """
    with told_if_interrupted(STORED):
        from modkernel.registry.bundles import exchange

        found = exchange.pull(stored(), reference, source)
    show_imported(found, json)


def key_in(path: Path | None) -> PrivateKey | None:
    """The key in a file that --sign names, if it does."""
    if path is None:
        return None
    from modkernel.registry.bundles.signing import read_key

    return read_key(path)


def show_imported(found: Imported, json: bool) -> None:
    """Say what a bundle brought and what was there."""
    modules = brought_in(found.modules, found.new)
    if json:
        print_json(
            {
                "id": found.manifest.id,
                "name": found.manifest.name,
                "modules": modules,
                "moments": found.moments,
                "network": None if found.network is None else found.network.id,
                "network_is_new": found.network_is_new,
                "signer": found.signer,
            }
        )
        return
    print_table(
        found.manifest.what,
        ("name", "version ", "id", ""),
        [
            (record.name, str(record.version), record.short_id, _new(record.id in found.new))
            for record in found.modules
        ],
    )
    if found.network is not None:
        out.print(f"network {found.network.name}: {_new(found.network_is_new)}")
    if found.moments:
        out.print(f"moments: {found.moments} new")
    err.print(
        "Nobody signed this bundle." if found.signer is None else f"Signed with key {found.signer}."
    )


def _new(is_new: bool) -> str:
    return "new" if is_new else "was there"
