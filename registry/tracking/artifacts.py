"""Files of MLflow's models: hash them where they are, bring them here.

A file that MLflow's store does not have, or has otherwise than it was stored, is lost; one that
cannot be read at the moment is not. The first is an ArtifactError, the second a StoreError.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.exceptions import MlflowException
from mlflow.models.model import MLMODEL_FILE_NAME, Model
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME

from modkernel.errors import ArtifactError, NotFoundError, StoreError
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE, StoredModule, read_module
from modkernel.registry.tracking.errors import ABSENT, UNFIT, first_line, translated
from modkernel.system.files import copy_file, flush_written, hash_file, written_whole
from modkernel.system.locks import locked

FLAVOR = "modkernel"
"""Name of our part of an MLmodel file."""
FILES = (WEIGHTS_FILE, SPEC_FILE)
"""What a module is: all else can be written again from it."""
NETWORK_FILES = (MLMODEL_FILE_NAME, "requirements.txt", "python_env.yaml")
"""All files of an MLflow model of a network."""
MODEL_FILES = (*NETWORK_FILES, *FILES)
"""All files of an MLflow model of a module, but for those in folders."""
BESIDE = {
    "moments": re.compile(r"[0-9A-Za-z_-]{1,128}\.safetensors"),
    "ground_truth": re.compile(r"[0-9a-f]{64}\.json"),
}
"""Folders beside those, and the names of the files in them: a fingerprint of data, a digest."""


def location_of(client: MlflowClient, model_id: str) -> str:
    """URI of the folder where MLflow keeps a model's files.

    Raises:
        ArtifactError: MLflow does not know the model.
        StoreError: MLflow does not answer, which says nothing about the model.
    """
    try:
        if not model_id:
            raise NotFoundError("a module that was not stored to the end has no model")
        with translated(client.tracking_uri):
            return str(client.get_logged_model(model_id).artifact_location)
    except NotFoundError as error:
        raise ArtifactError(
            f"MLflow has no model {model_id} any more: run 'modkernel repair', "
            "or train the module again."
        ) from error


def download_file(
    client: MlflowClient, model_id: str, name: str, sha256: str, target: Path
) -> None:
    """Bring one of a model's files here; `target` appears whole, with the expected content.

    Raises:
        ArtifactError: it is missing or altered in MLflow's store.
        StoreError: it cannot be read at the moment.
    """
    location = location_of(client, model_id)
    with tempfile.TemporaryDirectory() as temporary:
        path = download(client, f"{location}/{name}", Path(temporary))
        _require(path, name, model_id, sha256)
        copy_file(path, target)


def check_model(
    client: MlflowClient, model_id: str, sha256: Mapping[str, str], below: Sequence[str | None]
) -> None:
    """Check an MLflow model of a module or network, where it is kept; all its files are hashed.

    Whoever serves the model runs what its MLmodel file names, and installs its requirements.

    Args:
        client: MLflow.
        model_id: MLflow's id of the model.
        sha256: What each file must give, by its name.
        below: MLflow's ids of the modules that it is to name.

    Raises:
        ArtifactError: a file is missing or altered, or is none of those that were written, or a
            module below is elsewhere by now.
        StoreError: a file cannot be read at the moment.
    """
    location = location_of(client, model_id)
    _check_files(client, location, model_id, sha256)
    check_listed(client, location, f"MLflow's model {model_id}")
    if _models_below(client, location, model_id) != tuple(below):
        raise ArtifactError(
            f"MLflow's model {model_id} names other modules where they are no longer: 'modkernel "
            "repair' stores it again."
        )


def has_files(client: MlflowClient, model_id: str) -> bool:
    """Whether MLflow's store has the two files of a module's model; they are not read.

    Raises:
        StoreError: it cannot be told at the moment.
    """
    try:
        return set(FILES) <= set(listed(client, location_of(client, model_id)))
    except ArtifactError:
        return False


def flush_model(client: MlflowClient, model_id: str, name: str = "") -> None:
    """Have a model's files, or one of them, reach the disk where they lie on one of this machine.

    Raises:
        ArtifactError: the model is gone.
        StoreError: the disk failed.
    """
    uri = f"{location_of(client, model_id)}/{name}".rstrip("/")
    path = local_path(uri)
    if path is None:
        return
    try:
        flush_written(path)
    except OSError as error:
        raise _unread(uri, error) from error


def local_path(uri: str) -> Path | None:
    """Where a file or folder of MLflow's store lies on this machine; none where it does not."""
    parsed = urlparse(uri)
    return Path(url2pathname(parsed.path)) if parsed.scheme in ("", "file") else None


def _models_below(client: MlflowClient, location: str, model_id: str) -> tuple[str, ...]:
    """MLflow's ids of the modules that a model's MLmodel file says it stands on, first to last."""
    with _readable(client, f"{location}/{MLMODEL_FILE_NAME}") as path:
        hash_file(path)  # What cannot be read is told as that.
        try:
            return tuple(m["model_id"] for m in Model.load(str(path)).flavors[FLAVOR]["chain"])
        except Exception as error:  # Of a file of somebody else's, anything.
            raise ArtifactError(
                f"{MLMODEL_FILE_NAME} in MLflow's model {model_id} is not modkernel's: 'modkernel "
                "repair' stores the module again."
            ) from error


def listed(client: MlflowClient, uri: str, *, folders: bool = True) -> tuple[str, ...]:
    """Names of the files, and of the folders if asked for, in a folder of MLflow's store.

    Raises:
        StoreError: it cannot be read at the moment.
    """
    try:
        found = list_artifacts(artifact_uri=uri, tracking_uri=client.tracking_uri)
    except (MlflowException, OSError) as error:
        if getattr(error, "error_code", None) in (ABSENT, UNFIT):
            return ()
        raise _unread(f"{uri}/", error) from error
    return tuple(posixpath.basename(file.path) for file in found if folders or not file.is_dir)


def check_listed(client: MlflowClient, uri: str, where: str) -> None:
    """Look for files that are not ours in a model's folder in MLflow's store.

    Raises:
        ArtifactError: there is one.
        StoreError: the folder cannot be read at the moment.
    """
    names = listed(client, uri)
    inner = {folder: listed(client, f"{uri}/{folder}") for folder in BESIDE if folder in names}
    refuse_foreign(names, where, inner)


def refuse_foreign(names: Iterable[str], where: str, inner: Mapping[str, Iterable[str]]) -> None:
    """Check that all that lies in a model's folder, and in the folders in it, is ours.

    MLflow itself notes there under which name and version a model was loaded.

    Raises:
        ArtifactError: something else is among it.
    """
    foreign = sorted(
        [
            *(set(names) - {*MODEL_FILES, *BESIDE, REGISTERED_MODEL_META_FILE_NAME}),
            *(
                f"{folder}/{name}"
                for folder, files in inner.items()
                for name in files
                if not BESIDE[folder].fullmatch(name)
            ),
        ]
    )
    if foreign:
        raise ArtifactError(
            f"{where} holds {', '.join(foreign[:3])}, which modkernel did not write: 'modkernel "
            "repair' stores the module again without it."
        )


def check_files(client: MlflowClient, model_id: str, sha256: Mapping[str, str]) -> None:
    """Hash some of a model's files in MLflow's store, given by name with what they must give.

    Raises:
        ArtifactError: a file is missing or altered.
        StoreError: a file cannot be read at the moment.
    """
    _check_files(client, location_of(client, model_id), model_id, sha256)


def _check_files(
    client: MlflowClient, location: str, model_id: str, sha256: Mapping[str, str]
) -> None:
    for name, expected in sha256.items():
        with _readable(client, f"{location}/{name}") as path:
            _require(path, name, model_id, expected)


def fetch_module(
    client: MlflowClient, model_id: str, cache: Path, module: tuple[str, str, str]
) -> StoredModule:
    """A module out of the private cache, or else from MLflow, as `bring_module` does.

    An MLflow model with files that modkernel did not write is refused.

    Args:
        client: MLflow.
        model_id: MLflow's id of the model.
        cache: Folder with one folder a module.
        module: Its id, and the sha256 of its weights and of its spec.

    Raises:
        ArtifactError: files are missing or altered in MLflow's store, or are not ours.
        StoreError: they cannot be read at the moment.
    """
    try:
        module_id, *hashes = module
        return read_module(cache / module_id, *hashes)
    except ArtifactError:
        check_listed(client, location_of(client, model_id), f"MLflow's model {model_id}")
        return bring_module(client, model_id, cache, module)


def bring_module(
    client: MlflowClient, model_id: str, cache: Path, module: tuple[str, str, str]
) -> StoredModule:
    """Bring a module's two files from MLflow into the private cache, whatever lies beside them.

    Args:
        client: MLflow.
        model_id: MLflow's id of the model.
        cache: Folder with one folder a module; a damaged one of this module is replaced.
        module: Its id, and the sha256 of its weights and of its spec.

    Raises:
        ArtifactError: the files are missing or altered in MLflow's store.
        StoreError: they cannot be read at the moment.
    """
    module_id, *hashes = module
    folder, lock = cache / module_id, cache / f".{module_id}.lock"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(lock):
        try:
            # Who waited finds what another has brought, and must not take it away.
            with suppress(ArtifactError):
                return read_module(folder, *hashes)
            location = location_of(client, model_id)
            shutil.rmtree(folder, ignore_errors=True)
            with written_whole(folder, durable=True) as new:
                new.mkdir()
                for name, expected in zip(FILES, hashes, strict=True):
                    _require(download(client, f"{location}/{name}", new), name, model_id, expected)
            return read_module(folder, *hashes)
        finally:
            lock.unlink(missing_ok=True)


def download(client: MlflowClient, uri: str, folder: Path) -> Path:
    """Copy one file of MLflow's store into a folder of our own.

    Raises:
        ArtifactError: the store does not have it.
        StoreError: it cannot be fetched at the moment.
    """
    try:
        return Path(
            download_artifacts(
                artifact_uri=uri, dst_path=str(folder), tracking_uri=client.tracking_uri
            )
        )
    except (MlflowException, OSError) as error:
        # A server's error for a missing file looks like that of a broken disk: so the folder is
        # listed, which fails too where the store is away.
        if _is_listed(client, uri):
            raise _unread(uri, error) from error
        raise _missing(uri) from error


def _is_listed(client: MlflowClient, uri: str) -> bool:
    folder, name = uri.rsplit("/", 1)
    return name in listed(client, folder)


@contextmanager
def _readable(client: MlflowClient, uri: str) -> Iterator[Path]:
    path = local_path(uri)
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            yield download(client, uri, Path(folder))
        return
    try:
        yield path
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _missing(uri) from error
    except OSError as error:
        raise _unread(uri, error) from error


def _require(path: Path, name: str, model_id: str, expected: str) -> None:
    found = hash_file(path)
    if found != expected:
        raise ArtifactError(
            f"{name} differs from what was stored, in MLflow's model {model_id}: its sha256 is "
            f"{found[:12]}…, not {expected[:12]}…. Run 'modkernel repair', or train the module "
            "again."
        )


def _missing(uri: str) -> ArtifactError:
    location, name = uri.rsplit("/", 1)
    return ArtifactError(
        f"MLflow's store at {location} has no {name} any more: run 'modkernel repair', or train "
        "the module again."
    )


def _unread(uri: str, error: Exception) -> StoreError:
    location, name = uri.rsplit("/", 1)
    return StoreError(
        f"{name} in MLflow's store at {location} cannot be read now: {first_line(error)}. Try "
        "again once that is fixed ('modkernel doctor')."
    )
