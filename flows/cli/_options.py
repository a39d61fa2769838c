"""The options that name a data set and its classes, for all commands that have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modkernel.errors import SpecError

if TYPE_CHECKING:
    from modkernel.registry import ModuleRecord, Registry
    from modkernel.spec import DatasetSpec

Data = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|NAME",
        help="Folder of images, arrays file, table, a name in the setting data_paths, or a "
        "network's spec file (.yaml), of which 'dataset' counts: its label column, parts and all.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Only these classes: names with commas between; or grouped, as "
        "'animal=cat+dog, vehicle=truck+ship'."
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HEIGHTxWIDTH",
        help="Pixels that images are resized to: of a side, or height and width, as 24x16.",
    ),
]
Channels = Annotated[int | None, typer.Option(help="1 makes images grey, 3 colour.")]


def dataset_fields(
    dataset: str | None, data: str | None, image_size: str | None, channels: int | None
) -> dict[str, Any]:
    """The fields of a data set that the options name; without --dataset, its kind is looked at.

    Raises:
        SpecError: a spec file that cannot be read, or --dataset beside one.
        DataError: a file that no data set reads.
    """
    from modkernel.flows.specs.paths import stored_path

    if data is not None and is_spec_file(data):
        if dataset is not None:
            raise SpecError(
                f"{data} says which data set it is: leave --dataset out, or name in --data where "
                "that one lies."
            )
        own = of_spec_file(data)
        return own.model_dump(exclude_unset=True) | dataset_fields(
            own.name, None, image_size, channels
        )
    fields = {
        "name": dataset or (_kind(data) if data else None),
        "path": stored_path(data, Path.cwd()) if data else None,
        "image_size": image_size,
        "channels": channels,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _kind(data: str) -> str:
    """Which data set reads what --data names; whoever reads it says what is missing there."""
    from modkernel.flows.specs.data_kinds import kind_at
    from modkernel.registry import Settings

    path = Settings().places.at(data)
    return kind_at(path)[0] if path.exists() else "image_folder"


def is_spec_file(path: str) -> bool:
    """Whether a path is one of a spec file, by its ending."""
    return path.lower().endswith((".yaml", ".yml"))


def of_spec_file(path: str) -> DatasetSpec:
    """The data set of a network's spec file.

    Raises:
        SpecError: the file cannot be read, or is no network's.
    """
    from modkernel.flows.specs.read import read_spec

    return read_spec(Path(path)).dataset


def narrowed(base: DatasetSpec, classes: str | None) -> DatasetSpec:
    """A data set with the classes that --classes names, or as it is.

    Raises:
        ClassError: --classes cannot be read.
    """
    if classes is None:
        return base
    from modkernel.reuse.task import parse_task

    return parse_task(classes).dataset(base.changed(classes=None, groups=None))


def dataset_above(
    registry: Registry, top: ModuleRecord, fields: dict[str, Any], classes: str | None
) -> DatasetSpec | None:
    """The data set that the options name, on which modules are to stand on a stored one.

    Args:
        registry: knows what the module was trained on.
        top: the stored module.
        fields: the data set's, as of `dataset_fields`.
        classes: what --classes names.

    Returns:
        None where the options name nothing: it is the module's own then.

    Raises:
        SpecError, ClassError: the options cannot be.
    """
    from modkernel.flows.plans import datasets
    from modkernel.flows.specs.read import validated
    from modkernel.spec import DatasetSpec

    if not fields and classes is None:
        return None
    if "name" not in fields:
        fields = datasets.recall(registry, top).model_dump() | fields
    elif _was_moved(registry.modules.dataset(top), fields):
        own = datasets.recall(registry, top, fields["path"])
        kept = own.model_dump(exclude_defaults=True, exclude={"name", "path"})
        said = ", ".join(f"{name}: {value}" for name, value in kept.items())
        datasets.note(
            f"The data that {top.name} was trained on were moved: {fields['path']} is read as "
            f"those were{f' ({said})' if said else ''}."
        )
        fields = own.model_dump() | fields
    elif fields["name"] == "image_folder":
        # Images have any size: the network's own is meant.
        fields = top.spec.preprocessing.image_fields() | fields
    return narrowed(validated(DatasetSpec, fields, "option"), classes)


def _was_moved(own: DatasetSpec | None, fields: dict[str, Any]) -> bool:
    """Whether options that name no more than a place mean the data that were at another one."""
    from modkernel.flows.plans.datasets import has_moved

    return (
        own is not None
        and own.name == fields["name"]
        and "path" in fields
        and fields.keys() <= {"name", "path", "image_size", "channels"}
        and has_moved(own)
    )
