"""Training jobs on a disk that is slow with the last checkpoint, for jobs of that name; and those
of `jobs.run`."""

from __future__ import annotations

import time
from pathlib import Path

from modkernel.control import Progress, Stop
from modkernel.jobs import helpers
from modkernel.jobs.job import EndToEndJob, Job
from modkernel.jobs.run import run_job
from modkernel.training.checkpoint import Parts, Standing
from modkernel.training.saving import Saver
from tests.modkernel.helpers import jobs

SLOW = "slow-disk"


def run(job: Job, progress: Progress, stop: Stop) -> None:
    """Do the job; in the slow ones, write the last checkpoint later than helpers are waited for."""
    if isinstance(job, EndToEndJob):
        return jobs.run(job, progress, stop)
    if Path(job.work).name == SLOW:
        save = Saver.save
        helpers.GRACE_SECONDS = 0.1

        def slow(self: Saver, parts: Parts, standing: Standing, last: bool) -> None:
            if last:
                time.sleep(1.5)
            save(self, parts, standing, last)

        Saver.save = slow  # type: ignore[method-assign]
    run_job(job, progress, stop)
