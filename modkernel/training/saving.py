"""When checkpoints are written: between epochs, or beside training where that takes long."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from modkernel.training.checkpoint import Parts, Snapshot, Standing, snapshot, write_snapshot

BESIDE_SECONDS = 0.1
"""A checkpoint that took longer to write than this is written by a thread from then on, out of a
copy, while training goes on."""


class Saver:
    """Writes the checkpoints of one run.

    One that comes while the one before is still being written is left out, so a process that dies
    repeats the epochs of two writings at most. None is left out where `last` says so. Each says of
    what it is: the digest of what is trained.
    """

    def __init__(self, folder: Path | None, digest: str = "") -> None:
        self.folder, self.digest = folder, digest
        self.seconds = 0.0
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[None] | None = None

    def save(self, parts: Parts, standing: Standing, last: bool) -> None:
        """Write, or begin to write, all that an undisturbed run goes on from.

        Args:
            parts: of the run.
            standing: how far it has come.
            last: the run ends or stops here: return when it is written.

        Raises:
            OSError: this checkpoint, or the one before, cannot be written.
        """
        if self.folder is None:
            return
        if self.writing is not None and not (last or self.writing.done()):
            return
        self.finish()
        copy = snapshot(parts, standing, self.digest)
        if last or self.seconds <= BESIDE_SECONDS:
            self._write(self.folder, copy)
        else:
            self.writing = self.thread.submit(self._write, self.folder, copy)

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            OSError: it cannot be written.
        """
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def close(self) -> None:
        """Wait for what is being written, whatever comes of it, and end the thread."""
        self.thread.shutdown()

    def _write(self, folder: Path, copy: Snapshot) -> None:
        began = time.perf_counter()
        write_snapshot(folder, copy)
        self.seconds = time.perf_counter() - began
