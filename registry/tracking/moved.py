"""A home that was moved, copied or restored elsewhere: MLflow's database follows it.

MLflow's SQLite database holds an absolute place for every run and model. A file beside it says
where the home lay when those were written.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow.utils.file_utils import local_file_uri_to_path

from modkernel.errors import StoreError
from modkernel.registry.settings import Settings
from modkernel.system.files import replace_file
from modkernel.system.locks import locked

MARKER = "mlflow.home"
"""Name of that file in the home."""
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Column that names a place, by table."""
IN_HOME = "home:"
"""Begins a place below the home, as it is kept where no `follow_home` looks."""


def kept_place(uri: str, home: Path) -> str:
    """A place of MLflow's, so that it means the same once the home was moved."""
    path = Path(local_file_uri_to_path(uri))
    if not (path.is_absolute() and path.is_relative_to(home)):
        return uri
    return f"{IN_HOME}{path.relative_to(home)}"


def place_now(kept: str, home: Path) -> str:
    """The place that `kept_place` kept."""
    below = kept.removeprefix(IN_HOME)
    return kept if below == kept else (home / below).as_uri()


def follow_home(path: Path, settings: Settings) -> None:
    """Where the home is not where it was, name the artifacts in it where they are.

    Artifacts outside of the home are left alone, and so is a database outside: that of a copied
    home would be the other's too.

    Args:
        path: MLflow's SQLite database.
        settings: of the home.

    Raises:
        StoreError: the database cannot be written.
    """
    home, marker = settings.home, settings.home / MARKER
    if not path.absolute().is_relative_to(home) or _said(marker) == home:
        return
    with locked(home / "mlflow.lock"):
        before = _said(marker)
        if before is not None and _is_same(before, home):  # by a link, say
            return
        try:
            if before is not None:
                _rename(path, before, home)
            replace_file(marker, f"{home}\n".encode(), durable=True)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The home {home} was moved from {before}, and MLflow's database {path} cannot be "
                f"told: {error}. Run the command again once that is fixed."
            ) from error


def _said(marker: Path) -> Path | None:
    try:
        return Path(marker.read_text().rstrip("\n"))
    except OSError:
        return None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _rename(path: Path, before: Path, now: Path) -> None:
    """Put another folder's name in place of one in all that begins with it, in one step."""
    forms = {f"{before}/": f"{now}/", f"file://{before}/": f"file://{now}/"}
    forms[f"{before.as_uri()}/"] = f"{now.as_uri()}/"  # with blanks and umlauts as '%20'
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        for table, column in PLACES.items():
            for old, new in forms.items():
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old), old),
                )
