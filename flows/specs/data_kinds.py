"""Which kind of data set lies at a path: by the file's ending, or by what is in the folder."""

from __future__ import annotations

from pathlib import Path

from modkernel.data.file_kinds import ARRAYS, TABLES
from modkernel.errors import DataError

FILES = {
    "arrays": (ARRAYS, "an archive of arrays"),
    "table": (TABLES, "a table"),
}
"""How names of files end, and what they are in words, by data set."""
ARROW_FILES = ("dataset_info.json", "dataset_dict.json")
"""Files that a folder of Hugging Face's `datasets` has."""


def kind_at(path: Path) -> tuple[str, str]:
    """The name of the data set that reads a file or folder, and what that is in words.

    Raises:
        DataError: no data set reads such a file.
    """
    if path.is_dir():
        if any((path / name).exists() for name in ARROW_FILES):
            return "huggingface", "a folder of Hugging Face's 'datasets'"
        return "image_folder", "an image folder"
    for name, (endings, what) in FILES.items():
        if path.name.lower().endswith(endings):
            return name, what
    known = ", ".join(ending for endings, _ in FILES.values() for ending in endings)
    raise DataError(
        f"{path} is no data set that can be read: give a folder of images, a file of type {known}, "
        "or a spec file (.yaml) with a dataset."
    )
