"""`data check`: one look at a data set before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.flows.cli._options import (
    Channels,
    Classes,
    ImageSize,
    dataset_fields,
    is_spec_file,
    narrowed,
    of_spec_file,
)
from modkernel.flows.cli._output import Json, out, print_json, print_table, write_output

if TYPE_CHECKING:
    from modkernel.data import DataPlaces
    from modkernel.flows.data_check.look import DataLook
    from modkernel.spec import DatasetSpec

data = typer.Typer(help="Look at data before anything is trained on them.", no_args_is_help=True)

ROWS = 40
"""Classes of which the terminal shows the counts; the page has all."""


@data.callback()
def group() -> None:
    """Look at data before anything is trained on them."""


@data.command()
def check(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Folder or file of data, a name in the setting data_paths, or a network's spec "
            "file (.yaml).",
        ),
    ],
    classes: Classes = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    label: Annotated[str | None, typer.Option(help="Column of a table with the classes.")] = None,
    page: Annotated[
        Path, typer.Option(help="HTML page with examples of each class, written or replaced.")
    ] = Path("data-check.html"),
    json: Json = False,
) -> None:
    """Look at a data set as training would read it: nothing is trained.

    Shows examples per class and part, what would be resized, what was skipped, is a copy or leaks
    from one part into another, and the 'dataset:' block for a spec file. Ends with 1 and one
    sentence where training would be refused.

    --json: {what, dataset, fingerprint, example, counts: [{name, train, validation, test}],
    n_train, n_validation, n_test, n_borrowed, findings: [{kind, text, count}], block, page}; page
    is null where it could not be written, which is told in the end.
    """
    from modkernel.errors import SettingsError
    from modkernel.flows.data_check.look import look
    from modkernel.flows.data_check.page import data_page
    from modkernel.registry import Settings

    settings = Settings()
    where = settings.places
    spec, what = _dataset(path, where, image_size, channels, label)
    settings.ensure_home()
    found = look(narrowed(spec, classes), where, what)
    unwritten: SettingsError | None = None
    try:
        # Names of files need be no Unicode.
        content = data_page(found, Path(path).name or path).encode(errors="replace")
        write_output(page, content, "--page")
    except SettingsError as error:
        unwritten = error
    # Not resolved: /dev/stdout would be no path then.
    written = None if unwritten is not None else page.absolute()
    if json:
        shown = found.model_dump(mode="json", exclude={"examples"})
        print_json(shown | {"block": found.block, "page": written})
    else:
        _print(found, written)
    if unwritten is not None:
        raise unwritten


def _dataset(
    path: str, where: DataPlaces, image_size: str | None, channels: int | None, label: str | None
) -> tuple[DatasetSpec, str]:
    """The data set that a path and the options mean, and its kind in words."""
    from modkernel.flows.data_check.look import guess
    from modkernel.flows.specs.read import validated
    from modkernel.spec import DatasetSpec

    given = dataset_fields(None, None, image_size, channels)
    if label is not None:
        given["label"] = label
    if is_spec_file(path):
        dataset = of_spec_file(path)
        fields, what = dataset.model_dump(), f"'{dataset.name}', as {Path(path).name} says"
    else:
        fields, what = guess(path, where)
    return validated(DatasetSpec, fields | given, "option"), what


def _print(found: DataLook, page: Path | None) -> None:
    out.print(
        f"{found.what[0].upper()}{found.what[1:]} with "
        f"{found.n_train + found.n_validation + found.n_test} {found.example}.",
        soft_wrap=True,
    )
    rows = [
        (each.name or "", str(each.train), str(each.validation), str(each.test))
        for each in found.counts[:ROWS]
    ]
    if len(found.counts) > ROWS:
        rows.append((f"… {len(found.counts) - ROWS} more", "", "", ""))
    rows.append(("in all", str(found.n_train), str(found.n_validation), str(found.n_test)))
    print_table("", ("class", "train ", "validation ", "test "), rows)
    for finding in found.findings:
        out.print(f"{finding.kind}: {finding.text}", soft_wrap=True)
    if not found.findings:
        out.print("Nothing was noticed.")
    out.print(f"\n{found.block}", soft_wrap=True)
    if page is not None:
        out.print(f"Examples of each class: {page}", soft_wrap=True)
