"""Ground truths of stored modules: what studies found by training that a module is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modkernel.errors import ArtifactError
from modkernel.registry.beside.base import Beside
from modkernel.registry.records import GroundTruthRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import GroundTruthRow, utc_now
from modkernel.reuse.ground_truth import GroundTruth, GroundTruthSpec, read_ground_truth
from modkernel.reuse.scores import SCORES
from modkernel.reuse.scores.table import ON_MOMENTS
from modkernel.system.files import hash_file


@dataclass(frozen=True)
class GroundTruths(Beside[GroundTruthRecord, GroundTruth]):
    """Stored ground truths."""

    kind = "ground_truth"
    again = "'modkernel study' finds it again"
    row_type = GroundTruthRow
    record_type = GroundTruthRecord

    def find(self, spec: GroundTruthSpec) -> GroundTruth | None:
        """The ground truth that was found before, if it has all scores that there are now.

        One whose bytes are gone is none: it is found again.
        """
        record = queries.by_id(self.backends.database, spec.module_id)
        kept = None if record is None else self.get(record, spec.digest())
        if record is None or kept is None:
            return None
        try:
            truth = self.read(record, kept)
        except ArtifactError:
            return None
        return truth if _is_complete(truth) else None

    def store(self, file: Path) -> GroundTruth:
        """Store a ground truth beside its module; one that is there and has all scores stays.

        Args:
            file: As a job leaves it.

        Returns:
            The one that is stored now.

        Raises:
            ArtifactError: the file is missing or no ground truth, or the module's own bytes are
                gone.
            NotFoundError: the module is not ready.
        """
        try:
            sha256, size_bytes = hash_file(file), file.stat().st_size
        except OSError as error:
            raise self.unreadable(file, error) from error
        spec = self.parse(file, sha256).spec
        record = queries.required(self.backends.database, spec.module_id)
        digest = spec.digest()
        new = GroundTruthRecord(
            module_id=record.id,
            digest=digest,
            fingerprint=spec.fingerprint,
            sha256=sha256,
            size_bytes=size_bytes,
            path=f"{self.kind}/{digest}.json",
            created_at=utc_now(),
        )
        kept = self.keep(record, new, file, lambda found: _is_complete(self.read(record, found)))
        return self.read(record, kept)

    @classmethod
    def parse(cls, path: Path, sha256: str) -> GroundTruth:
        """See `Beside.parse`."""
        return read_ground_truth(path, sha256)


def _is_complete(truth: GroundTruth) -> bool:
    """Whether it has all scores that there are now."""
    wanted = {name for name, score in SCORES.items() if score.needs not in ON_MOMENTS}
    return wanted <= truth.scores.keys() | truth.undefined.keys()
