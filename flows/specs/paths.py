"""Paths in specs and commands as they are stored: absolute, or a name of data as it was written."""

from __future__ import annotations

import os
from pathlib import Path

from modkernel.data.places import is_data_name
from modkernel.registry import Settings


def stored_path(given: str, folder: Path) -> str:
    """What is stored of a path of data: each machine that reads it looks a name up by itself.

    Args:
        given: a name of data, which wins over a relative file of that name; or a path.
        folder: from which a relative path counts.
    """
    path = folder / Path(given).expanduser()
    if is_data_name(given) and (given in dict(Settings().data_paths) or not path.exists()):
        return given  # Another machine may know it.
    # A link stays one: where it leads next week is what is then meant.
    without_dots = Path(os.path.abspath(path))
    # After a link, '..' leads to another place than the text says.
    same = without_dots.resolve() == path.resolve()
    return str(without_dots if same else path.absolute())
