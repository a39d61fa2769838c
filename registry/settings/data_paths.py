"""The setting that tells where this machine has the data that specs know by a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from modkernel.data.places import is_data_name


def _pairs(given: object) -> object:
    if isinstance(given, Mapping):
        return tuple(given.items())
    if not isinstance(given, str):
        return given
    items = [item.partition("=") for item in map(str.strip, given.split(",")) if item]
    return tuple((name.strip(), path.strip()) for name, _, path in items)


def _checked(pairs: tuple[tuple[str, Path], ...]) -> tuple[tuple[str, Path], ...]:
    for name, path in pairs:
        if not is_data_name(name) or path == Path():
            raise ValueError(
                f"'{name}' with the path '{path}' names no data: write NAME=PATH, where the name "
                "has letters, digits, '_' and '-' alone"
            )
    return tuple((name, whole_path(path)) for name, path in pairs)


def whole_path(path: Path) -> Path:
    """A path from the root, with the folder that a '~' stands for.

    Raises:
        ValueError: it stands for none: nobody of that name, or no HOME and no entry for this user.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(
            f"no home folder is known for the '~' in '{path}': write a whole path (that of 'home' "
            "in MODKERNEL_HOME)"
        ) from None


DataPaths = Annotated[
    tuple[tuple[str, Path], ...],
    NoDecode,
    BeforeValidator(_pairs),
    AfterValidator(_checked),
]
"""Names and absolute paths; written as 'NAME=PATH,NAME=PATH', or as a table in TOML."""
