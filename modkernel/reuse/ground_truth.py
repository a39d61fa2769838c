"""What a stored module is really worth for a set of tasks: found by training, not predicted."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field, ValidationError

from modkernel.errors import ArtifactError, ClassError
from modkernel.reuse.task import Task
from modkernel.spec import OutputSpec, Spec

__all__ = ["GROUND_TRUTH_FILE", "GroundTruth", "GroundTruthSpec", "read_ground_truth"]

GROUND_TRUTH_FILE = "ground_truth.json"
"""Name of the file that a job leaves."""


class GroundTruthSpec(Spec):
    """What decides the ground truth of a stored module; the same spec and data give it again."""

    module_id: str
    fingerprint: str = Field(description="Of the data set, which has all classes of all tasks.")
    own: Task | None = Field(
        description="What the module was trained for; none where it was on other data."
    )
    targets: tuple[Task, ...]
    output: OutputSpec
    seed: int


class GroundTruth(Spec):
    """What a module is worth for each target, in the order of `spec.targets`."""

    spec: GroundTruthSpec
    accuracy: tuple[float, ...] = Field(
        description="Of a fresh output module on the module's features, on the test part, in [0, 1]"
    )
    balanced_accuracy: tuple[float, ...] = Field(
        description="Likewise, as the mean of the accuracies of the target's sides."
    )
    worst_accuracy: tuple[float, ...] = Field(
        description="Likewise, of the side of least accuracy."
    )
    left_out: int | None = Field(
        None,
        description="Test examples that are in none of these, since the module's chain had seen "
        "them; none where it is not known, of older versions.",
    )
    seen: int | None = Field(
        None,
        description="Test examples that are in these though the chain had seen them, since there "
        "are no others; none where it is not known what some module was trained on, and of older "
        "versions.",
    )
    scores: dict[str, tuple[float, ...]] = Field(
        description="Those of the table of scores that need more than moments, by name."
    )
    undefined: dict[str, str] = Field(
        description="Those of them that some target does not allow, with the reason."
    )
    score_seconds: dict[str, float]
    truth_seconds: float = Field(description="Features of all examples, and the output modules.")


def read_ground_truth(path: Path, sha256: str) -> GroundTruth:
    """Read a ground truth from its file; the bytes that are read are the bytes that are checked.

    Raises:
        ArtifactError: it is missing, altered, or no ground truth of this version.
    """
    try:
        content = path.read_bytes()
        truth = GroundTruth.model_validate_json(content)
    except (OSError, ValidationError, ClassError) as error:
        raise ArtifactError(
            f"{path} is not a ground truth that can be read: remove it, and run the command again "
            f"to make a new one ({type(error).__name__})."
        ) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError(
            f"{path} differs from what was stored: remove it, and run the command again to make a "
            "new one."
        )
    return truth
