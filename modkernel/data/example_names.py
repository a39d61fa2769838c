"""Which example a name means that a file of pairs or of labels gives."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from modkernel.data.file_kinds import suffix_of
from modkernel.errors import DataError
from modkernel.spec.shorthand import composed


def looks_like_id(name: str, known: Iterable[str]) -> bool:
    """Whether a name has the form of some id, and so is a wrong one and no heading of a column.

    That is a number, or the suffix of some image's file.
    """
    kinds = {_kind(each) for each in known}
    return _kind(name) in kinds - {""}


def _kind(name: str) -> str:
    last = name.rpartition("/")[2]
    return "number" if last.isdecimal() else suffix_of(last)


def known_id(
    name: str, known: Set[str], folder: Path | None, path: Path, number: int, example: str
) -> str:
    """The id that a name in a file means: itself, or an image's by its absolute path.

    In which Unicode form the name is written does not matter.

    Args:
        name: as it stands in the file.
        known: all ids.
        folder: the image folder, for absolute paths.
        path: the file.
        number: of the row.
        example: an id to show in the message.

    Raises:
        DataError: the data set has no such example.
    """
    given = composed(name)  # As all ids are.
    if given in known:
        return given
    if folder is not None and Path(given).is_absolute():
        for base in (folder.absolute(), folder.resolve()):
            root = composed(str(base))
            if Path(given).is_relative_to(root):
                below = Path(given).relative_to(root).as_posix()
                if below in known:
                    return below
    # An image that got its label in the folder is at another place of it.
    alike = [one for one in known if "/" in given and Path(one).name == Path(given).name]
    now = f" Is it '{alike[0]}' now?" if len(alike) == 1 else ""
    raise DataError(
        f"{path}, row {number}, names the example '{name}', which is none of those that the data "
        f"set trains or tests on: name examples by their ids, such as '{example}'.{now}"
    )
