"""Checkpoints of training that is under way, in the artifact store: another machine goes on there.

They lie in a folder of the module's MLflow run, which is found again by its recipe digest. A file
is sent under a name of its own, then a small JSON file that points to it with its hash, then older
ones are removed: who reads finds whole ones alone, whatever died and whoever writes beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import ValidationError

from modkernel.errors import ArtifactError, NotFoundError, StoreError
from modkernel.registry.backends import Backends
from modkernel.registry.sql import queries
from modkernel.registry.tracking import artifacts
from modkernel.registry.tracking.errors import speaks_with_mlflow, translated
from modkernel.registry.tracking.fields import RECIPE_TAG
from modkernel.spec import Spec
from modkernel.system.files import copy_file, hash_file
from modkernel.training.checkpoint import Position, position_of

FOLDER = "checkpoint"
"""Of a run's artifacts."""
TAG = "checkpoint"
"""Of a run that has some: by it those that are left behind are found."""
POINTER = re.compile(r"(\d{8})-(\d{8})-[0-9a-f]{12}\.json")
"""Name of a pointer: finished epochs, steps of the next one, and how the file's hash begins."""
LARGEST_POINTER = 10_000
"""Bytes."""


class Pointer(Spec):
    """What a pointer says."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of runs. Every method raises StoreError where MLflow does not answer."""

    backends: Backends

    @property
    def client(self) -> MlflowClient:
        """The connection to MLflow."""
        return self.backends.client

    @property
    def are_shared(self) -> bool:
        """Whether machines share the store; else a checkpoint is nowhere safer than in the home."""
        return self.backends.settings.mlflow_uri.startswith("http")

    @speaks_with_mlflow
    def store(self, run_id: str, file: Path, there: Position | None = None) -> Position | None:
        """Send a checkpoint to the store, and remove those in it that are less far, if it can.

        Args:
            run_id: of the module's MLflow run, alive or not.
            file: as training writes it; it may be replaced meanwhile.
            there: how far the one in the store is: it is not sent again.

        Returns:
            How far the one in the store is now; None where there is none.
        """
        if not file.exists():
            return there
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".sent-") as folder:
            held = Path(folder, "held")
            try:
                os.link(file, held)  # It stays what it is when the next one takes its place.
            except FileNotFoundError:
                return there
            except OSError:
                shutil.copyfile(file, held)
            position = position_of(held)
            if position in (None, there):
                return there
            sha256 = hash_file(held)
            name = f"{position.epoch:08}-{position.step:08}-{sha256[:12]}"
            sent, pointer = Path(folder, f"{name}.safetensors"), Path(folder, f"{name}.json")
            held.rename(sent)
            pointer.write_text(Pointer(file=sent.name, sha256=sha256).model_dump_json())
            self.client.set_tag(run_id, TAG, str(position))
            self.client.log_artifact(run_id, str(sent), FOLDER)
            self.client.log_artifact(run_id, str(pointer), FOLDER)
        # They may stay: it is sent, and the next one removes them, or whoever may delete.
        with suppress(StoreError), translated(self.client.tracking_uri):
            self._remove_before(run_id, pointer.name)
        return position

    @speaks_with_mlflow
    def fetch(self, run_id: str, file: Path) -> Position | None:
        """Bring the newest whole checkpoint of a run here, unless the one here is as far.

        Args:
            run_id: of the module's MLflow run.
            file: where training looks for it; what is there is replaced in one step.

        Returns:
            How far the one in the store is; None where there is none.
        """
        location = self._location(run_id)
        here = position_of(file)
        names = artifacts.listed(self.client, location)
        for name in sorted(filter(POINTER.fullmatch, names), reverse=True):
            position = _position(name)
            if here is not None and position <= here:
                return position
            with (
                tempfile.TemporaryDirectory() as folder,
                suppress(ArtifactError, ValidationError),
            ):
                found = artifacts.download(self.client, f"{location}/{name}", Path(folder))
                pointer = Pointer.model_validate_json(found.read_bytes()[:LARGEST_POINTER])
                if pointer.file not in names:  # So it is a name in this folder, too.
                    continue
                sent = artifacts.download(self.client, f"{location}/{pointer.file}", Path(folder))
                if hash_file(sent) == pointer.sha256 and position_of(sent) == position:
                    copy_file(sent, file)
                    return position
        return None

    @speaks_with_mlflow
    def remove(self, run_id: str) -> None:
        """Remove all checkpoints of a run, if there are any."""
        self._delete(run_id, FOLDER)
        with suppress(NotFoundError):
            self.backends.runs.remove_tag(run_id, TAG)

    def left(self) -> Iterator[tuple[str, str, int]]:
        """Id and name of each run whose module is stored and that has checkpoints, and their bytes.

        A process that died has left them behind.
        """
        if not self.are_shared:
            return
        for run in self.backends.runs.search(f"tags.`{TAG}` != ''"):
            recipe = run.data.tags.get(RECIPE_TAG, "")
            if run.info.status == "FINISHED" or queries.is_ready(self.backends.database, recipe):
                run_id, uri = run.info.run_id, self._location(run.info.run_id)
                yield run_id, run.info.run_name or run_id, self.backends.remains.size(uri)

    def sweep(self) -> tuple[str, ...]:
        """Remove the checkpoints that are `left`.

        Returns:
            The names of their runs.
        """
        names = []
        for run_id, name, _ in self.left():
            self.remove(run_id)
            names.append(name)
        return tuple(names)

    def _remove_before(self, run_id: str, newest: str) -> None:
        """Remove what is less far than a pointer, the pointers first."""
        names = artifacts.listed(self.client, self._location(run_id))
        older = [name for name in names if name[:17] < newest[:17]]
        for name in sorted(older, key=lambda name: not name.endswith(".json")):
            self._delete(run_id, f"{FOLDER}/{name}")

    def _location(self, run_id: str) -> str:
        return f"{self.client.get_run(run_id).info.artifact_uri}/{FOLDER}"

    def _delete(self, run_id: str, path: str) -> None:
        uri = self.client.get_run(run_id).info.artifact_uri
        # The client has no call for it.
        get_artifact_repository(uri, tracking_uri=self.client.tracking_uri).delete_artifacts(path)


def _position(pointer: str) -> Position:
    epoch, step = pointer.split("-")[:2]
    return Position(int(epoch), int(step))
