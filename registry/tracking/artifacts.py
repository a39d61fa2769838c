"""A module's two files as MLflow keeps them: hash them there, bring them here."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from modkernel.errors import ArtifactError, StoreError
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE, StoredModule, read_module

FILES = (WEIGHTS_FILE, SPEC_FILE)
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Codes by which MLflow answers that there is none of a name, an alias, a version or an id."""


def location_of(client: MlflowClient, model_id: str) -> str:
    """URI of the folder where MLflow keeps a model's files.

    Raises:
        ArtifactError: MLflow does not know the model.
        StoreError: MLflow does not answer, which says nothing about the model.
    """
    try:
        return str(client.get_logged_model(model_id).artifact_location)
    except MlflowException as error:
        if not is_absent(error):
            raise StoreError(
                f"MLflow did not say where model {model_id} is: {first_line(error)}. "
                "Try again when it answers ('modkernel doctor')."
            ) from error
        raise ArtifactError(
            f"MLflow has no model {model_id} any more: run 'modkernel repair', "
            "or train the module again."
        ) from error


def download(client: MlflowClient, model_id: str, folder: Path) -> None:
    """Copy a model's two files, and nothing else, into a folder of our own.

    Raises:
        ArtifactError: a file is missing in MLflow's store or cannot be fetched.
    """
    location = location_of(client, model_id)
    for name in FILES:
        _fetch(client, location, name, folder)


def download_file(
    client: MlflowClient, model_id: str, name: str, sha256: str, target: Path
) -> None:
    """Bring one of a model's files here; `target` appears whole, with the expected content.

    Raises:
        ArtifactError: it is missing or altered in MLflow's store.
    """
    location = location_of(client, model_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as temporary:
        path = _fetch(client, location, name, Path(temporary))
        with path.open("rb") as file:
            _require(file, name, model_id, sha256)
        os.replace(path, target)


def check(client: MlflowClient, model_id: str, weights_sha256: str, spec_sha256: str) -> None:
    """Hash a model's two files in MLflow's store; files on this machine are read in place.

    Raises:
        ArtifactError: a file is missing or altered.
    """
    check_files(client, model_id, dict(zip(FILES, (weights_sha256, spec_sha256), strict=True)))


def check_files(client: MlflowClient, model_id: str, sha256: Mapping[str, str]) -> None:
    """Hash some of a model's files in MLflow's store, given by name with what they must give.

    Raises:
        ArtifactError: a file is missing or altered.
    """
    location = location_of(client, model_id)
    for name, expected in sha256.items():
        with _readable(client, location, name) as path, path.open("rb") as file:
            _require(file, name, model_id, expected)


def fetch_module(
    client: MlflowClient, model_id: str, cache: Path, module: tuple[str, str, str]
) -> StoredModule:
    """A module out of the private cache, brought there through MLflow if it is not in it intact.

    Args:
        client: MLflow.
        model_id: MLflow's id of the model.
        cache: Folder with one folder a module.
        module: Its id, and the sha256 of its weights and of its spec.

    Raises:
        ArtifactError: the files are missing or altered in MLflow's store.
    """
    module_id, *hashes = module
    folder = cache / module_id
    if folder.is_dir():
        try:
            return read_module(folder, *hashes)
        except ArtifactError:
            shutil.rmtree(folder, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as temporary:
        new = Path(temporary) / module_id
        new.mkdir()
        download(client, model_id, new)
        for name, expected in zip(FILES, hashes, strict=True):
            with (new / name).open("rb") as file:
                _require(file, name, model_id, expected)
        _publish(new, folder)
    return read_module(folder, *hashes)


def _require(file: BufferedReader, name: str, model_id: str, expected: str) -> None:
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{name} differs from what was stored, in MLflow's model {model_id}: its sha256 is "
            f"{found[:12]}…, not {expected[:12]}…. Run 'modkernel repair', or train the module "
            "again."
        )


def _publish(new: Path, folder: Path) -> None:
    try:
        os.rename(new, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster with the same bytes
            raise


def _fetch(client: MlflowClient, location: str, name: str, folder: Path) -> Path:
    try:
        return Path(
            download_artifacts(
                artifact_uri=f"{location}/{name}",
                dst_path=str(folder),
                tracking_uri=client.tracking_uri,
            )
        )
    except (MlflowException, OSError) as error:
        raise _missing(location, name, error) from error


@contextmanager
def _readable(client: MlflowClient, location: str, name: str) -> Iterator[Path]:
    parsed = urlparse(location)
    if parsed.scheme in ("", "file"):
        path = Path(url2pathname(parsed.path)) / name
        if not path.is_file():
            raise _missing(location, name, FileNotFoundError("no such file"))
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield _fetch(client, location, name, Path(folder))


def is_absent(error: MlflowException) -> bool:
    """Whether MLflow answered that there is no such thing, rather than not at all."""
    return error.error_code in ABSENT


def first_line(error: Exception) -> str:
    """What an error says, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _missing(location: str, name: str, error: Exception) -> ArtifactError:
    reason = first_line(error)
    return ArtifactError(
        f"Cannot read {name} in MLflow's store at {location}: {reason}. Run 'modkernel "
        "repair', or train the module again."
    )
