"""The key of what is cached of a data set: as long as its files and its spec are as they were."""

from __future__ import annotations

import hashlib

from modkernel.spec import DatasetSpec

DATA_FORMAT = 2
"""Version of the fingerprint, of how images are decoded, of how sets are split, and of what is
cached of a set."""


def key_of(spec: DatasetSpec, stamp: str | None) -> str | None:
    """What changes whenever a set's files or its spec do; None where that is unknown.

    Args:
        spec: of the set.
        stamp: of its files, as `Source` has it.
    """
    if stamp is None:
        return None
    return hashlib.sha256(f"{DATA_FORMAT}\n{stamp}\n{spec.digest()}".encode()).hexdigest()
