"""Class moments of stored modules; see `registry.beside`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modkernel.errors import ArtifactError, MomentsError
from modkernel.registry.beside.base import Beside
from modkernel.registry.records import ModuleRecord, MomentsRecord
from modkernel.registry.sql.tables import MomentsRow, utc_now
from modkernel.registry.tracking.artifacts import BESIDE
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import read_moments
from modkernel.system.files import hash_file


@dataclass(frozen=True)
class StoredMoments(Beside[MomentsRecord, ModuleMoments]):
    """Stored moments, by the fingerprint of the data."""

    kind = "moments"
    again = "'modkernel advise' measures the module again"
    row_type = MomentsRow
    record_type = MomentsRecord

    def store(self, record: ModuleRecord, file: Path, dataset: str | None = None) -> MomentsRecord:
        """Store a file of moments beside its module; those of the same data that are there stay.

        Of other classes they are not of these data, whoever says so, and are replaced.

        Args:
            record: The module.
            file: As `modkernel.reuse.moments_file.write_moments` leaves it.
            dataset: Name of the data set; of the module's own data it is known.

        Raises:
            ArtifactError: the file is missing, altered or no file of moments, or the module's
                own bytes are gone.
            MomentsError: it holds the moments of another module.
            NotFoundError: the module is not ready.
        """
        new = self._described(record, file, dataset)
        return self.keep(record, new, file, lambda there: there.classes == new.classes)

    def load(self, record: ModuleRecord, fingerprint: str) -> ModuleMoments:
        """The moments of a module on the data of a fingerprint.

        Raises:
            MomentsError: there are none; the message names the command that computes them.
            ArtifactError: their bytes are missing or altered in MLflow's store.
        """
        found = self.get(record, fingerprint)
        if found is None:
            raise MomentsError(none_of(record, f"the data of fingerprint {fingerprint[:12]}"))
        return self.read(record, found)

    def of_training(self, chain: Sequence[ModuleRecord]) -> ModuleMoments | None:
        """Moments of a network's last hidden module on the data that the network was trained on.

        On that of its output module, else on that of the hidden module itself.

        Args:
            chain: The network's modules, first to last.

        Returns:
            None where there are none, or their bytes are gone; for an output module on several,
            too, which have moments of each, and none together.
        """
        if chain[-1].spec.interface.joins and chain[-1].kind == "output":
            return None
        hidden = [record for record in chain if record.kind != "output"]
        for trained in reversed(chain):
            found = self.get(hidden[-1], trained.spec.dataset.fingerprint) if hidden else None
            if found is not None:
                with suppress(ArtifactError):
                    return self.read(hidden[-1], found)
        return None

    def has(
        self, record: ModuleRecord, fingerprint: str, classes: tuple[str, ...] | None = None
    ) -> bool:
        """Whether a module has moments of the data of a fingerprint.

        Args:
            record: The module.
            fingerprint: Of the data.
            classes: Of the data, where they are known: moments of others do not count.
        """
        found = self.get(record, fingerprint)
        return found is not None and classes in (None, found.classes)

    @classmethod
    def parse(cls, path: Path, sha256: str) -> ModuleMoments:
        """See `Beside.parse`."""
        return read_moments(path, sha256)

    def _described(self, record: ModuleRecord, file: Path, dataset: str | None) -> MomentsRecord:
        """The record of a file of moments, which is checked."""
        try:
            sha256, size_bytes = hash_file(file), file.stat().st_size
        except OSError as error:
            raise self.unreadable(file, error) from error
        moments = read_moments(file, sha256)
        fingerprint = moments.train.fingerprint
        if moments.module_id != record.id:
            raise MomentsError(
                f"{file} holds the moments of module {moments.module_id[:12]}, not of "
                f"{record.short_id} ({record.name}): store it with that one."
            )
        name = f"{fingerprint}.safetensors"
        if not BESIDE[self.kind].fullmatch(name):
            raise MomentsError(
                f"'{fingerprint}' is no fingerprint of data, which is up to 128 letters and digits."
            )
        if dataset is None and fingerprint == record.spec.dataset.fingerprint:
            dataset = record.spec.dataset.name
        return MomentsRecord(
            module_id=record.id,
            fingerprint=fingerprint,
            dataset=dataset,
            classes=moments.train.classes,
            examples=moments.train.examples + moments.validation.examples,
            dimension=moments.train.dimension,
            sha256=sha256,
            size_bytes=size_bytes,
            path=f"{self.kind}/{name}",
            seconds=moments.seconds,
            created_at=utc_now(),
        )


def none_of(record: ModuleRecord, data: str) -> str:
    """The sentence for moments that nobody has computed."""
    return (
        f"Module {record.short_id} ({record.name}) has no moments of {data}: 'modkernel advise' "
        "with that data set computes them."
    )
