"""A job: all that a child process needs to train one module, as one JSON file.

Layout of a job's work folder:

    job.json          the job
    lock              held by the child that works here
    progress.jsonl    one JSON object a line, appended by every child that worked here
    log.txt           what the children wrote to their standard output and error
    checkpoint/       where training goes on
    result/           appears as a whole when training is finished; of modules that were trained
                       together each has a folder in it, `hidden-1`, `hidden-2`, …
    error.json        {"type", "message", "died"} of the typed error that ended the last child
    meeting           by which the processes of several devices find each other, while they train
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from modkernel.data.places import DataPlaces
from modkernel.errors import ChildError
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.spec import (
    DatasetSpec,
    HiddenModuleSpec,
    NetworkSpec,
    OutputModuleSpec,
    Spec,
    StitchModuleSpec,
)
from modkernel.spec.group import GroupSpec

Device = Literal["auto", "cpu", "cuda"]
PAIRS = "In place of class labels, as in a network's spec: views, a file of pairs, or both."
LEFT_OUT = (
    "Positions in the test part that are not tested on: modules of the chain were trained on these "
    "examples, or validated."
)

FULL_DISK = 28
"""Exit status of a child that has no room for an error.json; as the system numbers that error."""


class UpstreamFiles(Spec):
    """Where one stored module lies, and the hashes that its files must have."""

    folder: str
    weights_sha256: str
    spec_sha256: str


class _Job(Spec):
    """What every job has: its data, what it stands on, its folder and its device."""

    dataset: DatasetSpec
    data_root: str
    cache: str
    data_paths: dict[str, str] = Field(
        {}, description="This machine's path of data that specs know by a name."
    )
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
    trusted: tuple[str, ...] = Field(
        (), description="Import paths and packages that the upstream's specs may name."
    )

    @property
    def places(self) -> DataPlaces:
        """Where data are on this machine; what is missing was downloaded when this was planned."""
        paths = {name: Path(path) for name, path in self.data_paths.items()}
        return DataPlaces(Path(self.data_root), Path(self.cache), download=False, paths=paths)

    @property
    def result(self) -> Path:
        """The folder that is there when, and only when, the job is finished."""
        return Path(self.work, "result")


class HiddenJob(_Job):
    """Train a hidden module, and measure it."""

    kind: Literal["hidden"] = "hidden"
    module: HiddenModuleSpec
    pairs: str | None = Field(None, description=PAIRS)
    start: UpstreamFiles | None = Field(None, description="The module that it starts from.")
    devices: int = Field(1, ge=1, description="Devices that train it together.")

    @property
    def fingerprint(self) -> str:
        """Of the data that the job was planned on."""
        return self.module.dataset.fingerprint


class TogetherJob(_Job):
    """Train the hidden modules of a group in one pass, and measure each."""

    kind: Literal["together"] = "together"
    group: GroupSpec
    pairs: str | None = Field(None, description=PAIRS)

    @property
    def fingerprint(self) -> str:
        """Of the data that the job was planned on."""
        return self.group.modules[0].dataset.fingerprint


class StitchJob(_Job):
    """Fit a stitch, judge it, and measure it."""

    kind: Literal["stitch"] = "stitch"
    module: StitchModuleSpec
    upper: tuple[UpstreamFiles, ...] = Field(
        description="The whole chain of the module that it has a copy of, in order."
    )
    force: bool = Field(False, description="Leave it even if it is not worth storing.")
    left_out: tuple[int, ...] = Field(
        (), description="Positions in the validation part that either parent was trained on."
    )

    @property
    def fingerprint(self) -> str:
        """Of the data that the job was planned on."""
        return self.module.dataset.fingerprint


class OutputJob(_Job):
    """Train an output module."""

    kind: Literal["output"] = "output"
    module: OutputModuleSpec
    labels: str | None = Field(None, description="File of labels, in place of the data set's.")
    left_out: tuple[int, ...] = Field((), description=LEFT_OUT)
    seen: int = Field(
        0, ge=0, description="Such test examples that are tested on, since there are no others."
    )

    @property
    def fingerprint(self) -> str:
        """Of the data that the job was planned on."""
        return self.module.dataset.fingerprint


class EndToEndJob(_Job):
    """Train a whole network end to end."""

    kind: Literal["end_to_end"] = "end_to_end"
    network: NetworkSpec
    fingerprint: str = Field(description="Of the data that the job was planned on.")


class MeasureJob(_Job):
    """Take the class moments of a stored module's features."""

    kind: Literal["measure"] = "measure"
    fingerprint: str = Field(description="Of the data that the job was planned on.")


class GroundTruthJob(_Job):
    """Train fresh output modules on a stored module, for many tasks."""

    kind: Literal["ground_truth"] = "ground_truth"
    ground_truth: GroundTruthSpec
    left_out: tuple[int, ...] = Field((), description=LEFT_OUT)
    seen: int | None = Field(
        None, ge=0, description="As of an output module; none where it is not known."
    )
    fingerprint: str = Field(description="Of the data that the job was planned on.")


Job = Annotated[
    HiddenJob | TogetherJob | StitchJob | OutputJob | EndToEndJob | MeasureJob | GroundTruthJob,
    Field(discriminator="kind"),
]
"""What a child process trains or measures, on what, and where it leaves the result."""

_job: TypeAdapter[
    HiddenJob | TogetherJob | StitchJob | OutputJob | EndToEndJob | MeasureJob | GroundTruthJob
] = TypeAdapter(Job)


def disk_full(work: Path) -> ChildError:
    """The error of a child that could not write."""
    return ChildError(
        f"The disk is full, on which training writes to {work}: free some space, then the same "
        "command goes on from the last checkpoint, if there is one."
    )


def parse_job(content: bytes | str) -> Job:
    """A job of its JSON form.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _job.validate_json(content)
