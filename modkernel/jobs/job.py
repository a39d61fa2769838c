"""A job: all that a child process needs to train one module, as one JSON file.

Layout of a job's work folder:

    job.json          the job
    lock              held by the child that works here
    progress.jsonl    one JSON object a line, appended by every child that worked here
    log.txt           what the children wrote to their standard output and error
    checkpoint/       where training goes on
    result/           appears as a whole when training is finished
    error.json        {"type", "message"} of the typed error that ended the last child
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.spec import DatasetSpec, ModuleSpec, NetworkSpec, Spec

__all__ = ["Device", "Job", "UpstreamFiles"]

Device = Literal["auto", "cpu", "cuda"]


NEEDED = {
    "hidden": {"module"},
    "output": {"module"},
    "end_to_end": {"network", "fingerprint"},
    "measure": {"fingerprint"},
    "ground_truth": {"fingerprint", "ground_truth"},
}
"""Which of `SUBJECTS` a job of a kind has."""
SUBJECTS = ("module", "network", "fingerprint", "ground_truth")


class UpstreamFiles(Spec):
    """Where one stored module lies, and the hashes that its files must have."""

    folder: str
    weights_sha256: str
    spec_sha256: str


class Job(Spec):
    """What a child process trains or measures, on what, and where it leaves the result."""

    kind: Literal["hidden", "output", "end_to_end", "measure", "ground_truth"]
    module: ModuleSpec | None = Field(None, description="Of a hidden or output module.")
    network: NetworkSpec | None = Field(None, description="Of end-to-end training.")
    ground_truth: GroundTruthSpec | None = Field(
        None, description="What the ground truth is asked for."
    )
    dataset: DatasetSpec
    data_root: str
    cache: str
    fingerprint: str | None = Field(
        None,
        description="Of the data that a job without a module was planned on; a module's spec "
        "has its own.",
    )
    pairs: str | None = None
    labels: str | None = Field(None, description="File of labels for an output module.")
    upstream: tuple[UpstreamFiles, ...] = Field(
        (), description="The whole chain, in order; its last module is the one measured."
    )
    device: Device = "auto"
    threads: int = Field(1, ge=1, description="Threads of torch on the CPU.")
    work: str = Field(description="The job's own folder.")
    slots: str = Field(description="Folder of the device slots' lock files.")
    cpu_slots: int = Field(1, ge=1, description="Jobs that may compute on the CPU at once.")
    resident_limit: int | None = Field(
        None, description="Largest size in bytes of a data set that is held on the device."
    )
    features: str | None = Field(
        None, description="Folder of the feature cache; without one nothing is kept."
    )
    feature_limit: int = Field(0, ge=0, description="Bytes of the feature cache.")

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        given = {name for name in SUBJECTS if getattr(self, name) is not None}
        if given != NEEDED[self.kind]:
            raise ValueError(f"{self.kind} goes with {' and '.join(sorted(NEEDED[self.kind]))}")
        return self

    @property
    def result(self) -> Path:
        """The folder that is there when, and only when, the job is finished."""
        return Path(self.work, "result")
