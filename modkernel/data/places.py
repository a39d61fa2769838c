"""Where data sets are looked for and where copies of them are cached."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modkernel.errors import DataError
from modkernel.lookup import is_import_path
from modkernel.spec import DatasetSpec

NAME = re.compile(r"\w[\w-]*")
"""What a name of data looks like: neither a folder nor a suffix is in it, as in a path."""


@dataclass(frozen=True)
class DataPlaces:
    """Where data sets are looked for and where decoded copies of them are cached.

    Attributes:
        root: torchvision's data root.
        cache: folder for decoded images, file hashes and summaries; may be deleted at any time.
        download: whether a torchvision set that is not in `root` is downloaded.
        paths: this machine's path of data that specs and commands know by a name.
    """

    root: Path
    cache: Path
    download: bool = True
    paths: Mapping[str, Path] = field(default_factory=dict, hash=False)

    def at(self, given: str) -> Path:
        """This machine's path of a name of data, or else the path that is given itself."""
        return self.paths.get(given) or Path(given)

    def find(self, given: str, what: str) -> Path:
        """As `at`, of what must be there.

        Args:
            given: a name of data, or a path.
            what: says it, such as 'dataset.path', for the message.

        Raises:
            DataError: it is neither a name that this machine knows nor a path at which there is
                something, or nothing is where the name points.
        """
        path = self.at(given)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(self._missing(given, what)) from None
        except OSError:  # Whoever reads it says what is wrong with it.
            pass
        return path

    def located(self, spec: DatasetSpec) -> DatasetSpec:
        """A data set with this machine's path in place of a name; or as it is.

        Raises:
            DataError: see `find`.
        """
        if spec.path is None:
            return spec
        own = is_import_path(spec.name)  # To it, a path may be anything.
        path = self.at(spec.path) if own else self.find(spec.path, "dataset.path")
        return spec if path == Path(spec.path) else spec.changed(path=str(path))

    def _missing(self, given: str, what: str) -> str:
        host = socket.gethostname()
        if given in self.paths:
            return (
                f"{what} '{given}' is data that host {host} has at {self.paths[given]} by its "
                "settings (data_paths), and nothing is there: mount or move them there, or correct "
                "the path in MODKERNEL_DATA_PATHS or under [data_paths] in its settings file."
            )
        known = f"those are {', '.join(sorted(self.paths))}" if self.paths else "it knows none"
        return (
            f"{what} '{given}' is no file or folder on host {host}, and no name of data that it "
            f"knows ({known}): correct it, or give the name a path of that machine, as NAME=PATH "
            "in MODKERNEL_DATA_PATHS or NAME = 'PATH' under [data_paths] in its settings file."
        )


def is_data_name(given: str) -> bool:
    """Whether a text can be the name of data, and not only a path."""
    return NAME.fullmatch(given) is not None
